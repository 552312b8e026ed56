"""The stopping rule of Algorithm 1 and the decay of delta: lines 2 and 16.

Pure functions of a small state, used by every solver, the kernel included.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from splic_jax.config import SPLICConfig


class Progress(NamedTuple):
    """The state of the stopping rule.

    Attributes:
        round: rounds done.
        most: maximum number of rounds.
        delta: width of the smoothed rank in the next round, in the solver's unit.
        change: relative change of the last step; infinite before the first.
    """

    round: Array
    most: Array
    delta: Array
    change: Array


class Rule(NamedTuple):
    """Decides on the number of rounds, and on delta in each.

    Attributes:
        unfinished: whether to do another round.
        decayed: delta of the next round, given that of the last.
    """

    unfinished: Callable[[Progress, SPLICConfig], Array]
    decayed: Callable[[Array, SPLICConfig], Array]


def unfinished(progress: Progress, config: SPLICConfig) -> Array:
    """Line 2: tested once a round, on its last step, as printed."""
    return (progress.round < progress.most) & (progress.change > config.tolerance)


def decayed(delta: Array, config: SPLICConfig) -> Array:
    """Line 16, with a lower bound on delta."""
    return jnp.maximum(delta * config.delta_decay, smallest_delta(delta.dtype))


PRINTED = Rule(unfinished, decayed)


def every_round(progress: Progress, config: SPLICConfig) -> Array:
    """Always the maximum number of rounds, whatever the change."""
    del config
    return progress.round < progress.most


def begin(largest: Array, most: ArrayLike) -> Progress:
    """Line 1: delta is the largest singular value of the anchors.

    Args:
        largest: that value.
        most: maximum number of rounds.
    """
    delta = jnp.maximum(largest, smallest_delta(largest.dtype))
    infinite = jnp.asarray(jnp.inf, delta.dtype)
    return Progress(jnp.int32(0), jnp.asarray(most, jnp.int32), delta, infinite)


def after_round(
    progress: Progress, change: Array, config: SPLICConfig, rule: Rule
) -> Progress:
    """The state after a round, given the relative change of its last step."""
    delta = rule.decayed(progress.delta, config)
    return progress._replace(round=progress.round + 1, delta=delta, change=change)


def relative_change(moved: Array, size: Array) -> Array:
    """``||X_{t+1} - X_t||_F / ||X_t||_F``; for X_t = 0 the numerator alone.

    Args:
        moved: the square of the numerator.
        size: the square of the denominator.
    """
    return jnp.sqrt(jnp.where(size > 0, moved / jnp.where(size > 0, size, 1), moved))


def smallest_delta(dtype: jnp.dtype) -> float:
    """The lower bound on delta, for a black image, whose singular values are 0."""
    smallest: float = float(jnp.finfo(dtype).tiny) ** 0.2  # 1 / delta^4 is finite
    return smallest
