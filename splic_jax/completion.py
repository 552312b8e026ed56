"""Structure-preserving progressive low-rank completion, paper Algorithm 1.

`complete` is the algorithm with its early stop; `complete_rounds` runs a fixed number
of rounds and can be differentiated; `complete_alternating` is section 3.4, first the
target pixels from the anchors, then the anchors from the completed targets. All are
functions of one matrix: `jax.vmap` and `jax.jit` are the caller's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Array, Bool, Float, Int

from splic_jax.config import SPLICConfig
from splic_jax.spectral import cut_and_descend
from splic_jax.total_variation import total_variation_gradient


class Completion(NamedTuple):
    """What a completion returns.

    Attributes:
        matrix: the completed matrix; equal to the input at the anchors, to the bit.
        steps: gradient steps taken, a multiple of `inner_steps`.
        relative_change: ``||X_{t+1} - X_t||_F / ||X_t||_F`` of the last step.
        converged: whether the relative change fell to the tolerance.
        trace: with ``trace=True`` the relative change of every step (paper figure 4),
            NaN after the last; else None.
    """

    matrix: Float[Array, "m n"]
    steps: Int[Array, ""]
    relative_change: Float[Array, ""]
    converged: Bool[Array, ""]
    trace: Float[Array, " max_steps"] | None = None


class _State(NamedTuple):
    x: Array
    delta: Array
    round: Array
    changes: Array  # relative change of each step of the last round


def complete(
    matrix: Float[Array | np.ndarray, "m n"],
    mask: Bool[Array | np.ndarray, "m n"],
    config: SPLICConfig = SPLICConfig(),
    *,
    trace: bool = False,
    blocks: int = 1,
) -> Completion:
    """Completes a matrix from its anchors, paper Algorithm 1.

    Nothing of `matrix` but its anchors is used. The test for convergence is made once
    a round, as printed, on the round's last step. Under `jax.vmap` each matrix stops
    where it would have stopped alone: on the CPU bit for bit, on an accelerator up to
    the order of its sums. All anchors give the matrix back; without any there is
    nothing to complete from: refused when the mask is concrete, and reported by
    `checkify` when traced, as are anchors that are not finite.

    Args:
        matrix: pixel values; the field's range is [0, 1].
        mask: True at the anchors.
        config: the settings; `keep_probability`, `alternate`, `channels` and `mask`
            are not used here.
        trace: also return the relative change of every step.
        blocks: number of images of equal width side by side in `matrix` (channels that
            were concatenated); the total variation does not reach across their borders.

    Returns:
        A `Completion`.

    Raises:
        ValueError: for shapes that differ, a rank above min(m, n), no anchors, or
            anchors that are not finite.
    """
    matrix, mask = _checked(matrix, mask)

    def run(matrix: Array, mask: Array) -> Completion:
        return _run_to_convergence(matrix, mask, config, trace, blocks)

    if jax.default_backend() == "cpu":
        # The CPU's SVDs run one after another anyway. One completion after another
        # stops each as soon as it has converged, and sums in the same order as alone.
        run = jax.custom_batching.sequential_vmap(run)
    return run(matrix, mask)


def _run_to_convergence(
    matrix: Array, mask: Array, config: SPLICConfig, trace: bool, blocks: int
) -> Completion:
    anchors, start = _start(matrix, mask, config)
    size = config.max_rounds * config.inner_steps
    history = jnp.full((size if trace else 0,), jnp.nan, matrix.dtype)

    def unfinished(carry):
        state, _ = carry
        change = state.changes[-1]
        return (state.round < config.max_rounds) & (change > config.tolerance)

    def advance(carry):
        state, history = carry
        new = _round(state, anchors, mask, config, blocks)
        if trace:
            first = state.round * config.inner_steps
            history = jax.lax.dynamic_update_slice(history, new.changes, (first,))
        return new, history

    state, history = jax.lax.while_loop(unfinished, advance, (start, history))
    change = state.changes[-1]
    return Completion(
        matrix=_finish(state.x, matrix, mask, config),
        steps=state.round * config.inner_steps,
        relative_change=change,
        converged=change <= config.tolerance,
        trace=history if trace else None,
    )


def complete_rounds(
    matrix: Float[Array | np.ndarray, "m n"],
    mask: Bool[Array | np.ndarray, "m n"],
    config: SPLICConfig = SPLICConfig(),
    *,
    rounds: int,
    blocks: int = 1,
) -> Float[Array, "m n"]:
    """`complete` for a fixed number of rounds, differentiable in `matrix`.

    Equal to `complete` where that takes ``rounds * inner_steps`` steps. Reverse mode
    keeps one iterate a round and recomputes the rest (`jax.checkpoint`), so memory is
    that of ``rounds + inner_steps`` iterates. The derivative includes that of the
    first delta; see `cut_and_descend` for where it exists.

    Args:
        matrix, mask, config, blocks: as in `complete`.
        rounds: number of rounds of `inner_steps` steps each, >= 0.

    Returns:
        The completed matrix.

    Raises:
        ValueError: as `complete`.
    """
    matrix, mask = _checked(matrix, mask)
    anchors, state = _start(matrix, mask, config)

    @jax.checkpoint
    def advance(state, _):
        return _round(state, anchors, mask, config, blocks), None

    state, _ = jax.lax.scan(advance, state, length=rounds)
    return _finish(state.x, matrix, mask, config)


def complete_alternating(
    matrix: Float[Array | np.ndarray, "m n"],
    mask: Bool[Array | np.ndarray, "m n"],
    config: SPLICConfig = SPLICConfig(),
    *,
    rounds: int | None = None,
    blocks: int = 1,
) -> Float[Array, "m n"]:
    """Alternated SPLIC, paper section 3.4.

    Pass 1 completes the targets from the anchors; pass 2 takes the completed targets
    as anchors and completes the original anchors from them. The result depends on the
    anchors' values alone. Pass 2 is left out where pass 1 had no target.

    Args:
        matrix, mask, config, blocks: as in `complete`; ``config.alternate=False`` stops
            after pass 1.
        rounds: None runs each pass to convergence; a number runs that many rounds and
            can be differentiated.

    Returns:
        The completed matrix.

    Raises:
        ValueError: as `complete`.
    """

    def one_pass(matrix, mask):
        if rounds is None:
            return complete(matrix, mask, config, blocks=blocks).matrix
        return complete_rounds(matrix, mask, config, rounds=rounds, blocks=blocks)

    matrix, mask = _checked(matrix, mask)
    first = one_pass(matrix, mask)
    if not config.alternate:
        return first
    nothing_to_swap = jnp.all(mask)
    second = one_pass(first, ~mask | nothing_to_swap)
    return jnp.where(nothing_to_swap, first, second)


def _checked(
    matrix: Array | np.ndarray, mask: Array | np.ndarray
) -> tuple[Array, Array]:
    if matrix.ndim != 2 or matrix.shape != mask.shape:
        raise ValueError(
            "matrix and mask must be matrices of one shape, got "
            f"{matrix.shape} and {mask.shape}"
        )
    matrix, mask = jnp.asarray(matrix), jnp.asarray(mask)
    some = jnp.any(mask)
    finite = jnp.all(jnp.isfinite(jnp.where(mask, matrix, 0)))
    if not isinstance(some, jax.core.Tracer) and not some:
        raise ValueError("mask has no anchors: there is nothing to complete from")
    if not isinstance(finite, jax.core.Tracer) and not finite:
        raise ValueError("matrix is not finite at an anchor (NaN or infinity)")
    checkify.debug_check(some, "mask has no anchors")
    checkify.debug_check(finite, "matrix is not finite at an anchor")
    return matrix, mask


def _start(matrix: Array, mask: Array, config: SPLICConfig) -> tuple[Array, _State]:
    anchors = jnp.where(mask, matrix, 0) * config.pixel_scale
    # The values alone: their derivative, unlike that of the vectors, has no gaps.
    largest = jnp.linalg.svd(anchors, compute_uv=False)[0]
    delta = jnp.maximum(largest, _smallest_delta(matrix.dtype))
    changes = jnp.full((config.inner_steps,), jnp.inf, matrix.dtype)
    return anchors, _State(anchors, delta, jnp.zeros((), jnp.int32), changes)


def _round(
    state: _State, anchors: Array, mask: Array, config: SPLICConfig, blocks: int
) -> _State:
    """Lines 3 to 16 of Algorithm 1: the steps at one delta."""

    @jax.checkpoint
    def step(x, _):
        new = _step(x, anchors, mask, state.delta, config, blocks)
        moved, size = jnp.sum((new - x) ** 2), jnp.sum(x**2)
        change = jnp.where(size > 0, moved / jnp.where(size > 0, size, 1), moved)
        return new, jnp.sqrt(jax.lax.stop_gradient(change))

    x, changes = jax.lax.scan(step, state.x, length=config.inner_steps)
    delta = jnp.maximum(state.delta * config.delta_decay, _smallest_delta(x.dtype))
    return _State(x, delta, state.round + 1, changes)


def _step(
    x: Array,
    anchors: Array,
    mask: Array,
    delta: Array,
    config: SPLICConfig,
    blocks: int,
) -> Array:
    """Lines 4 to 13 of Algorithm 1."""
    cut, descended = cut_and_descend(
        x,
        delta,
        rank=config.rank_of(x.shape) if config.rank_cut else min(x.shape),
        step_size=config.step_size,
        relative=config.step_scaling == "relative",
    )
    if config.tv_weight:
        images = cut.reshape(x.shape[0], blocks, -1)
        gradient = jax.vmap(
            lambda image: total_variation_gradient(
                image, config.tv_form, config.tv_scales
            ),
            in_axes=1,
            out_axes=1,
        )(images)
        descended -= config.step_size * config.tv_weight * gradient.reshape(x.shape)
    return jnp.where(mask, anchors, descended)


def _finish(x: Array, matrix: Array, mask: Array, config: SPLICConfig) -> Array:
    return jnp.where(mask, matrix, x / config.pixel_scale)


def _smallest_delta(dtype: jnp.dtype) -> float:
    # A black image has no largest singular value; 1 / delta^4 must not overflow.
    return float(jnp.finfo(dtype).tiny) ** 0.2
