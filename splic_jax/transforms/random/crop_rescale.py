"""Random crop and rescale."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from splic_jax.fields import config, require_number
from splic_jax.transforms.base import per_image


@config
class CropRescaleConfig:
    """Settings of `crop_and_rescale`.

    Guo et al. take 90 of 224 pixels, always: ``smallest = largest = 90 / 224``, and
    average over 30 crops. Of an image of 32 pixels that leaves too little.

    Attributes:
        smallest: the smallest crop's share of the height and of the width; > 0.
        largest: that of the largest; from `smallest` to 1.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    smallest: float = 0.7
    largest: float = 0.9

    def __post_init__(self) -> None:
        require_number(self, "smallest", "(0, 1]")
        require_number(self, "largest", "(0, 1]")
        if self.largest < self.smallest:
            raise ValueError(
                f"largest must be at least smallest {self.smallest}, got {self.largest}"
            )


def stretching(
    start: Shaped[ArrayLike, ""],
    size: Shaped[ArrayLike, ""],
    length: int,
    dtype: jnp.dtype,
) -> Float[Array, "n n"]:
    """The matrix that stretches `size` pixels from `start` on to `length` of them.

    Bilinear between the centres of pixels, constant beyond the outermost ones.
    """
    centres = start + (jnp.arange(length, dtype=dtype) + 0.5) * size / length - 0.5
    centres = jnp.clip(centres, start, start + size - 1)
    distance = jnp.abs(centres[:, None] - jnp.arange(length, dtype=dtype))
    return jnp.maximum(1 - distance, 0)


def crop_and_stretch(
    image: Float[Array, "h w c"],
    share: Float[ArrayLike, ""],
    corner: Float[Array, "2"],
) -> Float[Array, "h w c"]:
    """Crops an image and stretches the crop to the whole of it.

    Args:
        image: of any range.
        share: of the height and of the width to keep, in (0, 1].
        corner: its place among all possible ones, from 0 (top, left) to below 1.
    """
    matrices = []
    for length, place in zip(image.shape[:2], corner, strict=True):
        size = jnp.maximum(jnp.round(share * length), 1)
        start = jnp.floor(place * (length - size + 1))
        matrices.append(stretching(start, size, length, image.dtype))
    rows, columns = matrices
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision="highest")


def crop_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: CropRescaleConfig
) -> Float[Array, "h w c"]:
    """Keeps a random rectangle of the image and rescales it to the image's size.

    Its share is uniform in the settings' range, its place uniform over whole pixels.
    Average the logits over several keys (votes), as the source does.

    Random. Differentiable, given the key: attack it by EOT.

    References:
        Guo et al. 2018, "Countering adversarial images using input transformations",
        section 3.
    """
    of_size, of_corner = jax.random.split(key)
    share = jax.random.uniform(
        of_size, (), image.dtype, config.smallest, config.largest
    )
    corner = jax.random.uniform(of_corner, (2,), image.dtype)
    return crop_and_stretch(image, share, corner)


crop_and_rescale = per_image(crop_one)
