"""An image as matrices with missing entries, as ME-Net estimates them."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from splic_jax.fields import config, require_choice, require_number
from splic_jax.layout.channels import Channels, from_matrices, to_matrices
from splic_jax.masks.sampling import sample_mask

Mask = Literal["shared", "independent"]


@config
class Masking:
    """Settings of a transform that masks an image and estimates its matrices.

    Attributes:
        keep_probability: p, chance of an entry to be kept; in (0, 1].
        channels: "concatenated" estimates one h x (c w) matrix, "separate" one h x w
            matrix a channel.
        mask: "independent" draws a mask for each channel, as ME-Net does for
            concatenated channels; "shared" one for all, as for separate ones.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    keep_probability: float = 0.5
    channels: Channels = "concatenated"
    mask: Mask = "independent"

    def __post_init__(self) -> None:
        require_number(self, "keep_probability", "(0, 1]")
        require_choice(self, "channels", ("separate", "concatenated"))
        require_choice(self, "mask", ("shared", "independent"))


def of_matrices(
    complete: Callable[[Array, Array], Array],
    image: Float[Array, "h w c"],
    mask: Bool[Array, "h w c"],
    channels: Channels,
) -> Float[Array, "h w c"]:
    """Applies ``(matrix, mask) -> matrix`` to each matrix of an image."""
    matrices, masks = (to_matrices(x, channels) for x in (image, mask))
    return from_matrices(jax.vmap(complete)(matrices, masks), image.shape[2])


def estimate(
    image: Float[Array, "h w c"],
    key: PRNGKeyArray,
    config: Masking,
    complete: Callable[[Float[Array, "m n"], Bool[Array, "m n"]], Float[Array, "m n"]],
) -> Float[Array, "h w c"]:
    """Draws a mask and estimates the image from its kept entries, in [-1, 1].

    The common part of ME-Net's three methods (Yang et al. 2019, section 2.1).

    Args:
        image: values in [0, 1].
        key: of the mask.
        config: the settings.
        complete: ``(matrix, mask) -> matrix``; the matrix is 0 where the mask is False.

    Returns:
        The estimate, clipped to [0, 1].
    """
    mask = sample_mask(key, image.shape, config.keep_probability, config.mask)
    kept = jnp.where(mask, 2 * image - 1, 0)
    done = of_matrices(complete, kept, mask, config.channels)
    return jnp.clip((done + 1) / 2, 0, 1)
