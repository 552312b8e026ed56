"""A barrage of random transforms: some of a set of ten, in random order."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from splic_jax.fields import config, require_integer
from splic_jax.transforms.base import per_image
from splic_jax.transforms.coding.jpeg import (
    CHROMA_TABLE,
    LUMA_TABLE,
    compress_with,
    dct_matrix,
    scaled_table,
)
from splic_jax.transforms.random.crop_rescale import crop_and_stretch

Image = Float[Array, "h w c"]

LUMA = np.array([0.299, 0.587, 0.114])


def reduce_colours(image: Image, key: PRNGKeyArray, levels: Array) -> Image:
    """Rounds to a number of levels from black to white."""
    del key
    levels = jnp.round(levels)
    return jnp.round(image * levels) / levels


def compress_as_jpeg(image: Image, key: PRNGKeyArray, quality: Array) -> Image:
    """Rounds as JPEG of a given quality does."""
    del key
    quality = jnp.round(quality).astype(int)
    tables = scaled_table(LUMA_TABLE, quality), scaled_table(CHROMA_TABLE, quality)
    return compress_with(image, *tables, "4:2:0", "exact")


def swirl(
    image: Image,
    key: PRNGKeyArray,
    strength: Array,
    radius: Array,
    centre_y: Array,
    centre_x: Array,
) -> Image:
    """Swirls the image around a centre, by `strength` radians there.

    The angle falls to 1/e at ``radius * log(2) / 5`` of the longer side, as in
    scikit-image.
    """
    del key
    height, width, _ = image.shape
    decay = radius * max(height, width) * np.log(2) / 5
    centre_y, centre_x = centre_y * (height - 1), centre_x * (width - 1)
    y, x = jnp.mgrid[:height, :width]
    y, x = y - centre_y, x - centre_x
    angle = strength * jnp.exp(-jnp.hypot(y, x) / decay)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    source = [centre_y + cosine * y + sine * x, centre_x + cosine * x - sine * y]
    sample = partial(
        jax.scipy.ndimage.map_coordinates,
        coordinates=source,
        order=1,
        mode="nearest",
    )
    swirled: Array = jax.vmap(sample, -1, -1)(image)
    return swirled


def add_noise(image: Image, key: PRNGKeyArray, std: Array) -> Image:
    """Adds Gaussian noise."""
    return image + std * jax.random.normal(key, image.shape, image.dtype)


def disturb_spectrum(image: Image, key: PRNGKeyArray, dropped: Array) -> Image:
    """Drops a share of the DCT coefficients, and scales the others by 0.98 to 1.02.

    The mean is kept.
    """
    of_mask, of_factor = jax.random.split(key)
    rows, columns = (jnp.asarray(dct_matrix(n), image.dtype) for n in image.shape[:2])
    product = partial(jnp.einsum, precision="highest")
    spectrum = product("uh,hwc,vw->uvc", rows, image, columns)
    kept = jax.random.uniform(of_mask, image.shape, image.dtype) >= dropped
    factor = jax.random.uniform(of_factor, image.shape, image.dtype, 0.98, 1.02)
    factor = (kept * factor).at[0, 0].set(1)
    return product("uh,uvc,vw->hwc", rows, spectrum * factor, columns)


def zoom(image: Image, key: PRNGKeyArray, share: Array) -> Image:
    """Enlarges a random crop of that share of the height and width."""
    corner = jax.random.uniform(key, (2,), image.dtype)
    return crop_and_stretch(image, share, corner)


def shift_colours(
    image: Image, key: PRNGKeyArray, brightness: Array, first: Array, second: Array
) -> Image:
    """Adds to the brightness and, of a colour image, to two chroma directions."""
    del key
    if image.shape[-1] == 1:
        return image + brightness
    # The directions leave the luma as it is: they are orthogonal to its weights.
    directions = jnp.asarray(
        [[1, -LUMA[0] / LUMA[1], 0], [0, -LUMA[2] / LUMA[1], 1]], image.dtype
    )
    return image + (brightness + first * directions[0] + second * directions[1])


def stretch_contrast(image: Image, key: PRNGKeyArray, factor: Array) -> Image:
    """Moves the values away from their mean, by a factor."""
    del key
    mean = jnp.mean(image)
    return mean + factor * (image - mean)


def mix_gray(image: Image, key: PRNGKeyArray, share: Array) -> Image:
    """Mixes in gray of random weights of the channels."""
    weights = jax.random.uniform(key, image.shape[-1:], image.dtype, 0.1, 1)
    weights /= jnp.sum(weights)
    gray = sum(image[..., i : i + 1] * weights[i] for i in range(image.shape[-1]))
    return (1 - share) * image + share * gray


def blur(image: Image, key: PRNGKeyArray, std: Array) -> Image:
    """Gaussian blur over the pixels within the image."""
    del key

    def weights(length: int) -> Array:
        position = jnp.arange(length, dtype=image.dtype)
        exponent = (position[:, None] - position) ** 2 / (2 * std**2)
        return jax.nn.softmax(-exponent, -1)

    rows, columns = (weights(length) for length in image.shape[:2])
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision="highest")


class Part(NamedTuple):
    """``apply(image, key, *parameters) -> image``, and the ranges of the parameters."""

    apply: Callable[..., Image]
    ranges: tuple[tuple[float, float], ...]


# One of each group of Raff et al., milder where theirs is for 224 x 224 pixels.
PARTS: dict[str, Part] = {
    "reduce_colours": Part(reduce_colours, ((8, 200),)),
    "compress_as_jpeg": Part(compress_as_jpeg, ((55, 95),)),
    "swirl": Part(swirl, ((0.1, 2), (0.3, 0.9), (0, 1), (0, 1))),
    "add_noise": Part(add_noise, ((0, 0.06),)),
    "disturb_spectrum": Part(disturb_spectrum, ((0, 0.2),)),
    "zoom": Part(zoom, ((0.8, 1),)),
    "shift_colours": Part(shift_colours, ((-0.06, 0.06),) * 3),
    "stretch_contrast": Part(stretch_contrast, ((0.8, 1.5),)),
    "mix_gray": Part(mix_gray, ((0, 1),)),
    "blur": Part(blur, ((0.3, 0.9),)),
}


@config
class BarrageConfig:
    """Settings of `bombard`.

    Attributes:
        count: how many of the parts to apply, each at most once; 5 as in Raff et al.
        parts: names of those of `PARTS` to choose from.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    count: int = 5
    parts: Sequence[str] = tuple(PARTS)

    def __post_init__(self) -> None:
        require_integer(self, "count")
        object.__setattr__(self, "parts", tuple(self.parts))  # JSON has lists
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or len(set(self.parts)) < len(self.parts):
            raise ValueError(
                f"parts must be different names of {', '.join(PARTS)}, "
                f"got {self.parts!r}"
            )
        if self.count > len(self.parts):
            raise ValueError(
                f"count must be at most the number of parts {len(self.parts)}, "
                f"got {self.count}"
            )


def bombard_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: BarrageConfig
) -> Float[Array, "h w c"]:
    """Applies `count` of the parts, in random order, with random parameters.

    The choice, the order and the parameters are uniform; values are clipped to [0, 1]
    after each.

    Random. Differentiable, given the key, except for the reduction of colours and the
    JPEG, whose derivative is zero: attack it by BPDA and EOT, or leave those two out.

    References:
        Raff et al. 2019, "Barrage of random transforms for adversarially robust
        defense".
    """

    def branch(part: Part) -> Callable[[Array, Array, Array], Array]:
        low, high = np.asarray(part.ranges, image.dtype).T

        def apply(image: Array, key: PRNGKeyArray, drawn: Array) -> Array:
            parameters = low + (high - low) * drawn[: len(low)]
            done = part.apply(image, key, *parameters)
            return jnp.clip(done, 0, 1).astype(image.dtype)

        return apply

    branches = [branch(PARTS[name]) for name in config.parts]
    of_order, of_parameters, of_parts = jax.random.split(key, 3)
    order = jax.random.permutation(of_order, len(branches))[: config.count]
    most = max(len(PARTS[name].ranges) for name in config.parts)
    drawn = jax.random.uniform(of_parameters, (config.count, most), image.dtype)

    def step(image: Array, one: tuple[Array, Array, Array]) -> tuple[Array, None]:
        number, key, drawn = one
        return jax.lax.switch(number, branches, image, key, drawn), None

    keys = jax.random.split(of_parts, config.count)
    return jax.lax.scan(step, image, (order, keys, drawn))[0]


bombard = per_image(bombard_one)
