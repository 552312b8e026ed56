"""Universal singular value thresholding, as ME-Net applies it to images."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from splic_jax.fields import config, require_number
from splic_jax.transforms.base import per_image
from splic_jax.transforms.completion.matrices import Masking, estimate
from splic_jax.transforms.completion.singular_values import truncate


@config
class USVTConfig(Masking):
    """Settings of `usvt`; the defaults are ME-Net's.

    Attributes, beside those of `Masking`:
        kept_share: singular values that are kept, as a share of the image's height,
            rounded down, at least one; in (0, 1].

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    kept_share: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "kept_share", "(0, 1]")


def usvt_matrix(
    matrix: Float[Array | np.ndarray, "m n"], mask: Bool[Array, "m n"], *, rank: int
) -> Float[Array, "m n"]:
    """Estimates a matrix from some of its entries.

    The missing entries count as 0, the `rank` largest singular values are kept, and the
    result is divided by the share of entries that were observed, which makes the
    estimate unbiased.

    Args:
        matrix: values around 0; ME-Net's are in [-1, 1].
        mask: True where the entry is observed; at least one is.
        rank: singular values kept, 1 to min(m, n).

    Returns:
        The estimate, not clipped. Differentiable in `matrix` unless the last singular
        value kept equals the first one dropped.
    """
    kept = jnp.where(mask, matrix, 0)
    return truncate(kept, rank) / jnp.mean(mask, dtype=matrix.dtype)


def usvt_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: USVTConfig
) -> Float[Array, "h w c"]:
    """Estimates an image from a random part of its pixels by one truncated SVD.

    Pixels are scaled to [-1, 1] for it, and the result is clipped. Random, and
    differentiable. ME-Net itself is attacked by BPDA, with an identity backward; a
    defence like it must be attacked over the average of many masks (EOT).

    References:
        Yang, Zhang, Katabi and Xu 2019, "ME-Net: towards effective adversarial
        robustness with matrix estimation", and its published code; Chatterjee 2015,
        "Matrix estimation by universal singular value thresholding".
    """
    height, width, channels = image.shape
    columns = width * channels if config.channels == "concatenated" else width
    rank = max(1, min(math.floor(config.kept_share * height), height, columns))
    return estimate(image, key, config, lambda x, m: usvt_matrix(x, m, rank=rank))


usvt = per_image(usvt_one)
