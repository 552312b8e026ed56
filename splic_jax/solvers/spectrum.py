"""What a step does to singular values, the same for all solvers."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from splic_jax.objective.smoothed_rank_gradient import (
    spectral_weight,
    spectral_weight_differences,
)


def gain(delta: Array, step_size: float, relative: bool) -> Array:
    """The factor of the exponential in a step: mu if relative, else mu / delta^2."""
    return jnp.full_like(delta, step_size) if relative else step_size / delta**2


def descended_weights(
    kept: Float[Array, " p"], squared_ratio: Float[Array, " p"], gain: Array
) -> Float[Array, " p"]:
    """The factors of singular values in lines 4 to 8 and the rank's part of line 11.

    Args:
        kept: 1 where a singular value is among the first r, else 0: line 7.
        squared_ratio: ``(sigma / delta)^2``.
        gain: of `gain`.
    """
    return kept * (1 - gain * spectral_weight(squared_ratio))


def divided_differences(
    s: Float[Array, " p"],
    kept: Float[Array, " p"],
    shrunk: Float[Array, " p"],
    width: Float[Array, ""],
    gain: Float[Array, ""],
) -> tuple[Float[Array, "p p"], Float[Array, "p p"]]:
    """Divided differences of the weights of cut and descent, in sigma squared.

    At the cut a weight jumps to 0. Among the kept ones the weight of the cut is
    constant, and that of the descent is ``1 - gain exp(-sigma^2 / 2 width^2)``.

    Args:
        s: singular values, in any order, of about 1 or less.
        kept: 1 where a singular value is among the first r, else 0: the cut's weights.
        shrunk: the descent's weights.
        width: delta, in the unit of s.
        gain: of `gain`.

    Returns:
        Those of the cut and of the descent, symmetric matrices.
    """
    gap = s[:, None] ** 2 - s[None, :] ** 2
    across = kept[:, None] * (1 - kept[None, :])
    tie = jnp.abs(gap) < jnp.finfo(s.dtype).eps ** 2
    inverse_gap = across * jnp.where(tie, 0, 1 / jnp.where(tie, 1, gap))
    within = kept[:, None] * kept[None, :]
    within *= gain * spectral_weight_differences(s, width)

    def both_ways(weights: Array) -> Array:
        jumps = inverse_gap * weights[:, None]
        return jumps + jnp.swapaxes(jumps, 0, 1)

    return both_ways(kept), both_ways(shrunk) + within
