"""JPEG compression, without the file: what quantisation leaves of an image."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from splic_jax.fields import (
    Settings,
    config,
    require_choice,
    require_integer,
    require_number,
)
from splic_jax.transforms.base import Transform, per_image

# The example tables of the standard, annex K.1, which libjpeg scales by the quality.
LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA_TABLE = np.full((8, 8), 99)
CHROMA_TABLE[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]

# RGB to luma and chroma (JFIF) and back, in libjpeg's 16 binary digits: products and
# sums with levels of 0 to 255 are exact in float32, whatever their order.
TO_YCC = ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329))
CHROMA_TO_RGB = ((0, 91881), (-22554, -46802), (116130, 0))
UNIT = 2**16

Rounding = Literal["exact", "differentiable"]


@config
class JPEGConfig:
    """Settings of `compress`.

    Attributes:
        quality: from 1 to 100, as libjpeg and Pillow count it; 75 as in Guo et al.
        subsampling: of the chroma: "4:2:0" halves both sides, as Pillow does by
            default, "4:4:4" none.
        rounding: "exact" rounds as a file does; its derivative is zero, so attack it by
            BPDA. "differentiable" rounds only the coefficients, by
            ``round(x) + (x - round(x))**3``, which has a derivative (Shin and Song).

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    quality: int = 75
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"
    rounding: Rounding = "exact"

    def __post_init__(self) -> None:
        require_integer(self, "quality")
        require_number(self, "quality", "[1, 100]")
        require_choice(self, "subsampling", ("4:2:0", "4:4:4"))
        require_choice(self, "rounding", ("exact", "differentiable"))


def scaled_table(
    table: Int[np.ndarray, "8 8"], quality: Int[Array, ""]
) -> Int[Array, "8 8"]:
    """A table of the standard at a quality, as libjpeg scales it."""
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return jnp.clip((jnp.asarray(table) * percent + 50) // 100, 1, 255)


def dct_matrix(size: int) -> Float[np.ndarray, "n n"]:
    """The orthonormal DCT-II of a vector, as a matrix; its transpose undoes it."""
    frequency, position = np.mgrid[:size, :size]
    matrix: np.ndarray = np.cos(np.pi * frequency * (2 * position + 1) / (2 * size))
    return matrix * np.sqrt(np.where(frequency == 0, 1, 2) / size)


def quantise(
    plane: Float[Array, "h w"],
    steps: Shaped[Array, "8 8"],
    rounding: Rounding,
    fixed_point: bool = False,
) -> Float[Array, "h w"]:
    """Rounds the DCT coefficients of each 8 x 8 block to multiples of its steps.

    Args:
        plane: levels; filled up to whole blocks by repeating the edge.
        steps: of the coefficients, the frequency growing downwards and to the right.
        rounding: see `JPEGConfig`.
        fixed_point: whether to round in between as libjpeg's DCT of integers does.

    Returns:
        The levels afterwards, not rounded.
    """

    def cut(values: Array, unit: float) -> Array:
        return jnp.floor(values / unit + 0.5) * unit if fixed_point else values

    height, width = plane.shape
    plane = jnp.pad(plane, ((0, -height % 8), (0, -width % 8)), "edge")
    blocks = plane.reshape(plane.shape[0] // 8, 8, -1, 8)
    dct = jnp.asarray(dct_matrix(8), plane.dtype)
    steps = steps.astype(plane.dtype)[:, None, :]
    product = partial(jnp.einsum, precision="highest")
    half_way = 1 / (4 * np.sqrt(8))
    blocks = cut(product("iajb,vb->iajv", blocks, dct), half_way)
    ratio = cut(product("ua,iajv->iujv", dct, blocks), 1 / 8) / steps
    if rounding == "exact":
        rounded = jnp.sign(ratio) * jnp.floor(jnp.abs(ratio) + 0.5)
    else:
        rounded = jnp.round(ratio)
        rounded += (ratio - rounded) ** 3
    blocks = cut(product("ua,iujv->iajv", dct, rounded * steps), half_way)
    blocks = product("iajv,vb->iajb", blocks, dct)
    return blocks.reshape(plane.shape)[:height, :width]


def halved(plane: Float[Array, "h w"], rounding: Rounding) -> Float[Array, "h2 w2"]:
    """Means of 2 x 2 levels, for whole blocks of columns."""
    height, width = plane.shape
    plane = jnp.pad(plane, ((0, height % 2), (0, -width % 16)), "edge")
    total = plane.reshape(plane.shape[0] // 2, 2, -1, 2).sum((1, 3))
    if rounding == "exact":  # rounds halves up and down in turn, as libjpeg does
        return jnp.floor((total + 1 + jnp.arange(total.shape[1]) % 2) / 4)
    return total / 4


def doubled(plane: Float[Array, "h w"], rounding: Rounding) -> Float[Array, "h2 w2"]:
    """Interpolates twice as many rows and columns, libjpeg's "fancy upsampling"."""
    if plane.shape[1] <= 2:  # libjpeg repeats the levels of an image so narrow.
        return jnp.repeat(jnp.repeat(plane, 2, 0), 2, 1)
    for axis in (0, 1):
        along = jnp.moveaxis(plane, axis, 0)
        before = 3 * along + jnp.concatenate([along[:1], along[:-1]])
        after = 3 * along + jnp.concatenate([along[1:], along[-1:]])
        both = jnp.stack([before, after], 1).reshape(-1, *along.shape[1:])
        plane = jnp.moveaxis(both, 0, axis)
    if rounding == "exact":
        return jnp.floor((plane + 8 - jnp.arange(plane.shape[1]) % 2) / 16)
    return plane / 16


def mixed(
    weights: Sequence[Sequence[int]], planes: Sequence[Float[Array, "h w"]]
) -> list[Float[Array, "h w"]]:
    """Sums of the planes, weighted by each row of a matrix in units of 2**-16."""
    # Plane by plane: jaxlib 0.10.2 miscompiles the sum over a last axis on the CPU
    # (https://github.com/jax-ml/jax/issues/39103).
    return [
        cast(
            Array,
            sum(p * (weight / UNIT) for weight, p in zip(row, planes, strict=True)),
        )
        for row in weights
    ]


def compress_with(
    image: Float[Array, "h w c"],
    luma_steps: Shaped[Array, "8 8"],
    chroma_steps: Shaped[Array, "8 8"],
    subsampling: str,
    rounding: Rounding,
) -> Float[Array, "h w c"]:
    """Compresses an image of values in [0, 1] with given steps of quantisation."""
    height, width, channels = image.shape

    def whole(plane: Array, half: float = 0.5) -> Array:
        return jnp.floor(plane + half) if rounding == "exact" else plane

    def coded(plane: Array, steps: Array) -> Array:
        if rounding == "differentiable":
            return quantise(plane - 128, steps, rounding) + 128
        plane = quantise(plane - 128, steps, rounding, fixed_point=True) + 128
        return jnp.clip(whole(plane), 0, 255)

    def coded_chroma(plane: Array) -> Array:
        plane = whole(plane + 128, 0.5 - 1 / UNIT)
        if subsampling == "4:4:4":
            return coded(plane, chroma_steps) - 128
        plane = coded(halved(plane, rounding), chroma_steps)
        plane = plane[: (height + 1) // 2, : (width + 1) // 2]
        return doubled(plane, rounding)[:height, :width] - 128

    planes = [whole(image[..., i] * 255) for i in range(channels)]
    if channels == 1:
        return coded(planes[0], luma_steps)[..., None] / 255
    luma, blue, red = mixed(TO_YCC, planes)
    luma = coded(whole(luma), luma_steps)
    colours = mixed(CHROMA_TO_RGB, [coded_chroma(blue), coded_chroma(red)])
    return jnp.stack([luma + whole(colour) for colour in colours], -1) / 255


def compress_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: JPEGConfig
) -> Float[Array, "h w c"]:
    """Compresses an image as JPEG and decompresses it.

    Luma and chroma are cut into blocks of 8 x 8, and their DCT coefficients rounded to
    multiples of the standard's steps. An image of one channel is luma.

    Not random. Differentiable only where `JPEGConfig.rounding` says so.

    References:
        Guo et al. 2018, "Countering adversarial images using input transformations",
        section 3; ITU-T T.81; Shin and Song 2017, "JPEG-resistant adversarial images".
    """
    del key
    quality = jnp.asarray(config.quality)
    return jnp.clip(
        compress_with(
            image,
            scaled_table(LUMA_TABLE, quality),
            scaled_table(CHROMA_TABLE, quality),
            config.subsampling,
            config.rounding,
        ),
        0,
        1,
    )


compress = per_image(compress_one)


def with_differentiable_rounding(
    transform: Transform,
) -> Callable[[Float[Array, "*n h w c"], Settings], Float[Array, "*n h w c"]]:
    """``(images, config) -> images``, to stand in for a transform's derivative (BPDA).

    Args:
        transform: one that is not random, whose settings have a `rounding`.
    """

    def backward(images: Array, config: Settings) -> Array:
        differentiable = dataclasses.replace(config, rounding="differentiable")
        return transform(images, jax.random.key(0), differentiable)

    return backward
