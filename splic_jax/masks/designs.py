"""Mask designs: ways to choose the anchors other than independently.

Each is ``(key, (height, width), keep_probability) -> mask``, True at the anchors, of
which there is always at least one. Pure, for use under `jax.vmap` and `jax.jit`; a mask
is the same on every device and in every batch.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

Design = Literal["iid", "exact", "checkerboard", "blue_noise", "blocks"]

BLOCK = 4
_BLUE_ROUNDS = 16
_UNIT = (
    2**20
)  # stands for 1; times 16, the sum in `_blur`, it is still a 32-bit integer


def exact(
    key: Key[Array, ""], shape: tuple[int, int], keep_probability: float
) -> Bool[Array, "h w"]:
    """Exactly round(p h w) anchors (at least one), all sets equally likely."""
    order = jax.random.permutation(key, shape[0] * shape[1])
    return (order < anchors_of(shape, keep_probability)).reshape(shape)


def checkerboard(
    key: Key[Array, ""], shape: tuple[int, int], keep_probability: float = 0.5
) -> Bool[Array, "h w"]:
    """Every other pixel, starting randomly with the first or the second.

    Raises:
        ValueError: for a keep probability other than 0.5.
    """
    if keep_probability != 0.5:
        raise ValueError(
            "keep_probability must be 0.5 for mask_design='checkerboard', "
            f"got {keep_probability}"
        )
    phase = jax.random.bernoulli(key, jnp.float32(0.5)).astype(jnp.int32)
    if shape == (1, 1):
        phase = jnp.zeros_like(phase)
    rows, columns = (jnp.arange(side) for side in shape)
    return (rows[:, None] + columns + phase) % 2 == 0


def blue_noise(
    key: Key[Array, ""], shape: tuple[int, int], keep_probability: float
) -> Bool[Array, "h w"]:
    r"""Exactly round(p h w) anchors (at least one), without clusters or holes.

    Draws a number u in [0, 1) for each pixel; those above 1 - p are anchors. Then
    lowers u where anchors are too dense, and raises it where they are sparse:

    .. math:: u \gets u - \frac{g * (m(u) - p)}{i}, \quad i = 1, \dots, 16

    where m is the mask and g a smoothing filter with periodic borders. The highest u
    become the anchors. A fast approximation of void-and-cluster: at p = 0.5 a tenth of
    white noise's power is left at low frequencies.

    References:
        Ulichney 1993, "The void-and-cluster method for dither array generation".
    """
    rarer = min(keep_probability, 1 - keep_probability)
    # As wide as the spacing of the anchors or of the holes, whichever are rarer.
    passes = max(4, math.ceil(0.5 / max(rarer, 0.03)))
    share = round(keep_probability * _UNIT)
    bits = jax.random.bits(key, (shape[0] * shape[1],), jnp.uint32)
    start = (bits % _UNIT).astype(jnp.int32).reshape(shape)

    def level(i: Int[Array, ""], number: Int[Array, "h w"]) -> Int[Array, "h w"]:
        excess = jnp.where(number >= _UNIT - share, _UNIT - share, -share)
        around: Array = jax.lax.fori_loop(0, passes, lambda _, x: _blur(x), excess)
        return number - around // (i + 1)

    number = jax.lax.fori_loop(0, _BLUE_ROUNDS, level, start).reshape(-1)
    chosen = jnp.argsort(-number)[: anchors_of(shape, keep_probability)]
    return jnp.zeros(number.size, bool).at[chosen].set(True).reshape(shape)


def blocks(
    key: Key[Array, ""],
    shape: tuple[int, int],
    keep_probability: float,
    block: int = BLOCK,
) -> Bool[Array, "h w"]:
    """Blocks of b x b pixels from the upper left corner on, each drawn independently.

    At least one block is drawn: the one with the lowest number.
    """
    grid = [-(-side // block) for side in shape]
    uniform = jax.random.uniform(key, (grid[0] * grid[1],), jnp.float32).reshape(grid)
    drawn = (uniform < keep_probability) | (uniform == uniform.min())
    mask = jnp.repeat(jnp.repeat(drawn, block, axis=0), block, axis=1)
    return mask[: shape[0], : shape[1]]


DESIGNS: Mapping[str, Callable[..., Bool[Array, "h w"]]] = {
    "exact": exact,
    "checkerboard": checkerboard,
    "blue_noise": blue_noise,
    "blocks": blocks,
}
assert {"iid", *DESIGNS} == set(get_args(Design))


def anchors_of(shape: tuple[int, int], keep_probability: float) -> int:
    """How many pixels of an image `exact` and `blue_noise` keep."""
    return max(1, round(keep_probability * shape[0] * shape[1]))


def _blur(level: Int[Array, "h w"]) -> Int[Array, "h w"]:
    """The binomial filter (1, 2, 1) / 4 in both directions, with periodic borders."""
    for axis in (0, 1):
        near = jnp.roll(level, 1, axis) + jnp.roll(level, -1, axis)
        level = (near + 2 * level + 2) >> 2
    return level
