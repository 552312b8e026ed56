"""Structure-preserving progressive low-rank completion, paper Algorithm 1.

`complete` is the algorithm with its early stop; `complete_rounds` runs a fixed number
of rounds and can be differentiated; `complete_alternating` is section 3.4, first the
target pixels from the anchors, then the anchors from the completed targets. All are
functions of one matrix, compiled once for each shape and settings; `jax.vmap` is the
caller's.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from splic_jax import small, spectral, tracked
from splic_jax.arguments import described, require_array, require_matrix
from splic_jax.checks import reporter
from splic_jax.config import SPLICConfig
from splic_jax.total_variation import total_variation_gradient

# Small matrices completed together on the CPU, whose operations take no longer to start
# than to run.
GROUP = 4

Done = TypeVar("Done")

_report_anchors = reporter("mask has no anchors")
_report_finite = reporter("matrix is not finite at an anchor")


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
    x: Array  # the iterate, in units of `_Problem.unit`
    vectors: Array | None  # what the fast solver tracks
    delta: Array
    round: Array
    changes: Array  # relative change of each step of the last round, or the last one's


# The iterate before a step, the one after it, and what the fast solver tracks.
_Carry = tuple[Array, Array, Array | None]


class _Problem(NamedTuple):
    """A matrix ``[m, n]`` to complete."""

    anchors: Array  # 0 where there is none
    mask: Array  # 1 at the anchors, 0 elsewhere
    unit: Array  # 1 with the exact solver


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

    The completed matrix can be differentiated in reverse mode (`jax.grad`), once: the
    derivative is that of `complete_rounds` for the number of rounds this took, which
    small changes of the matrix leave as it is. Memory for it grows with ``max_steps /
    inner_steps`` iterates.

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
    done: Completion = _complete(*_checked(matrix, mask), config, trace, blocks)
    return done


# Called outside of any `jax.jit` it would be compiled anew each time.
@functools.partial(jax.jit, static_argnames=("config", "trace", "blocks"))
def _complete(
    matrix: Array, mask: Array, config: SPLICConfig, trace: bool, blocks: int
) -> Completion:
    def run(matrix: Array, mask: Array) -> Completion:
        return _run_to_convergence(matrix, mask, config, trace, blocks)

    if jax.default_backend() == "cpu":
        # One completion after another, or one group after another, stops each as soon
        # as it has converged, and sums in the same order as alone.
        grouped = in_groups(config, matrix.shape, matrix.dtype)
        together = _grouped if grouped else jax.custom_batching.sequential_vmap
        return differentiable(together(run), config, blocks)(matrix, mask)
    return differentiable(run, config, blocks)(matrix, mask)


def differentiable(
    run: Callable[[Array, Array], Completion], config: SPLICConfig, blocks: int
) -> Callable[[Array, Array], Completion]:
    """`run`, which completes a matrix, or many, until it converges, with a derivative.

    In reverse mode, in the matrix: that of the completed matrix for as many rounds as
    `run` took. They are run once more for it, and their states kept.
    """

    @jax.custom_vjp
    def completed(matrix: Array, mask: Array) -> Completion:
        return run(matrix, mask)

    def forward(
        matrix: Array, mask: Array
    ) -> tuple[Completion, tuple[Array, Array, Array]]:
        done = run(matrix, mask)
        return done, (matrix, mask, done.steps // config.inner_steps)

    def backward(
        residuals: tuple[Array, Array, Array], cotangent: Completion
    ) -> tuple[Array, None]:
        pull = functools.partial(_pull_back, config=config, blocks=blocks)
        if residuals[0].ndim == 3:
            pull = jax.vmap(pull)
        return pull(*residuals, cotangent.matrix), None

    completed.defvjp(forward, backward)
    return completed


@functools.partial(jax.jit, static_argnames=("config", "blocks"))
def _pull_back(
    matrix: Array,
    mask: Array,
    rounds: Array,
    cotangent: Array,
    config: SPLICConfig,
    blocks: int,
) -> Array:
    """The derivative of `_run_rounds`, of a number of rounds known at run time alone.

    JAX differentiates no loop of that kind, so the chain rule is written out: the state
    before each round is kept, and the rounds are gone through backwards.
    """

    def begin(matrix: Array) -> tuple[tuple[Array, Array], tuple[_Problem, _State]]:
        problem, state = _start(matrix, mask, config)
        return (problem.anchors, state.delta), (problem, state)

    _, pull_begin, (problem, start) = jax.vjp(begin, matrix, has_aux=True)

    kept = jax.tree.map(
        lambda a: jnp.zeros((config.max_rounds, *a.shape), a.dtype), start
    )

    def record(number: Array, carry: tuple[_State, _State]) -> tuple[_State, _State]:
        kept, state = carry
        kept = jax.tree.map(lambda all, one: all.at[number].set(one), kept, state)
        return kept, _round(state, problem, config, blocks)

    zero = jnp.zeros_like(rounds)
    kept, last = jax.lax.fori_loop(zero, rounds, record, (kept, start))

    def finish(matrix: Array, x: Array) -> Array:
        return _finish(x, matrix, problem, config)

    of_matrix, of_x = jax.vjp(finish, matrix, last.x)[1](cotangent)

    def go_back(
        done: Array, carry: tuple[Array, Array, Array]
    ) -> tuple[Array, Array, Array]:
        of_x, of_delta, of_anchors = carry
        state: _State = jax.tree.map(lambda all: all[rounds - 1 - done], kept)

        def advance(x: Array, delta: Array, anchors: Array) -> tuple[Array, Array]:
            before = state._replace(x=x, delta=delta)
            known = problem._replace(anchors=anchors)
            after = _round(before, known, config, blocks)
            return after.x, after.delta

        pull = jax.vjp(advance, state.x, state.delta, problem.anchors)[1]
        of_x, of_delta, more = pull((of_x, of_delta))
        return of_x, of_delta, of_anchors + more

    carry = (of_x, jnp.zeros_like(start.delta), jnp.zeros_like(problem.anchors))
    of_x, of_delta, of_anchors = jax.lax.fori_loop(zero, rounds, go_back, carry)
    # The first x is the anchors.
    more: Array = pull_begin((of_anchors + of_x, of_delta))[0]
    total: Array = of_matrix + more
    return total


def in_groups(
    config: SPLICConfig, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> bool:
    """Whether matrices of this shape are completed `GROUP` at a time on the CPU."""
    return _is_fast(config, shape, dtype) and max(shape) <= small.LARGEST


def _grouped(
    run: Callable[[Array, Array], Completion],
) -> Callable[[Array, Array], Completion]:
    """`run`, a function of one matrix, such that `GROUP` are always done together.

    However many there are: so each one's result is the same whatever the batch.
    """

    @jax.custom_batching.custom_vmap
    def run_batch(matrices: Array, masks: Array) -> Completion:
        return _map_groups(run, matrices, masks)

    @run_batch.def_vmap
    def _(size: int, batched: list[bool], *arrays: Array) -> tuple[Completion, Any]:
        every = [
            a if is_batched else jnp.broadcast_to(a, (size, *a.shape))
            for a, is_batched in zip(arrays, batched, strict=True)
        ]
        done = run_batch(*(a.reshape(-1, *a.shape[2:]) for a in every))
        done = jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), done)
        return done, jax.tree.map(lambda _: True, done)

    def run_one(matrix: Array, mask: Array) -> Completion:
        done = run_batch(matrix[None], mask[None])
        first: Completion = jax.tree.map(lambda a: a[0], done)
        return first

    return run_one


def _map_groups(
    run: Callable[[Array, Array], Done], matrices: Array, masks: Array
) -> Done:
    """Maps `run` over ``[b, m, n]``, `GROUP` at a time."""
    count = len(matrices)
    filling = ((0, -count % GROUP), (0, 0), (0, 0))
    groups = (-1, GROUP, *matrices.shape[1:])
    matrices = jnp.pad(matrices, filling).reshape(groups)
    masks = jnp.pad(masks, filling, constant_values=True).reshape(groups)
    done = jax.lax.map(lambda group: jax.vmap(run)(*group), (matrices, masks))
    done = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], done)
    return cast(Done, done)


def _run_to_convergence(
    matrix: Array, mask: Array, config: SPLICConfig, trace: bool, blocks: int
) -> Completion:
    problem, start = _start(matrix, mask, config, trace)
    size = config.max_rounds * config.inner_steps
    history = jnp.full(size if trace else 0, jnp.nan, matrix.dtype)

    def unfinished(state: _State) -> Array:
        change = state.changes[-1]
        return (state.round < config.max_rounds) & (change > config.tolerance)

    def advance(carry: tuple[_State, Array]) -> tuple[_State, Array]:
        state, history = carry
        new = _round(state, problem, config, blocks, trace)
        if trace:
            first = state.round * config.inner_steps
            history = jax.lax.dynamic_update_slice(history, new.changes, (first,))
        return new, history

    state, history = jax.lax.while_loop(
        lambda carry: unfinished(carry[0]), advance, (start, history)
    )
    change = state.changes[-1]
    return Completion(
        matrix=_finish(state.x, matrix, problem, config),
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
    """`complete` for a fixed number of rounds, to be differentiated in `matrix`.

    Equal to `complete` where that takes ``rounds * inner_steps`` steps. The fast solver
    has a derivative in reverse mode (`jax.grad`), the exact one in both. Reverse mode
    keeps each step's iterate and basis where no side is above 64; of larger matrices
    those of each round, and computes the steps of one again (`jax.checkpoint`), so
    that memory is that of ``rounds + inner_steps`` iterates. The derivative includes
    that of the first delta; see `cut_and_descend` for where it exists.

    Args:
        matrix, mask, config, blocks: as in `complete`.
        rounds: number of rounds of `inner_steps` steps each, >= 0.

    Returns:
        The completed matrix.

    Raises:
        ValueError: as `complete`.
    """
    matrix, mask = _checked(matrix, mask)
    done: Array = _complete_rounds(matrix, mask, config, rounds, blocks)
    return done


def _run_rounds(
    matrix: Array, mask: Array, config: SPLICConfig, rounds: int, blocks: int
) -> Array:
    problem, state = _start(matrix, mask, config)

    def advance(state: _State, _: None) -> tuple[_State, None]:
        return _round(state, problem, config, blocks), None

    if max(matrix.shape) > small.LARGEST:
        advance = jax.checkpoint(advance, prevent_cse=False)
    state, _ = jax.lax.scan(advance, state, length=rounds)
    return _finish(state.x, matrix, problem, config)


_complete_rounds = jax.jit(_run_rounds, static_argnames=("config", "rounds", "blocks"))


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
        rounds: None runs each pass to convergence; a number runs that many rounds.

    Returns:
        The completed matrix.

    Raises:
        ValueError: as `complete`.
    """
    checked = _checked(matrix, mask)
    done: Array = _complete_alternating(*checked, config, rounds, blocks)
    return done


@functools.partial(jax.jit, static_argnames=("config", "rounds", "blocks"))
def _complete_alternating(
    matrix: Array, mask: Array, config: SPLICConfig, rounds: int | None, blocks: int
) -> Array:
    def one_pass(matrix: Array, mask: Array) -> Array:
        if rounds is None:
            return complete(matrix, mask, config, blocks=blocks).matrix
        return complete_rounds(matrix, mask, config, rounds=rounds, blocks=blocks)

    return _alternate(one_pass, matrix, mask, config)


def complete_batch(
    matrices: Float[Array, "b m n"],
    masks: Bool[Array, "b m n"],
    config: SPLICConfig = SPLICConfig(),
    *,
    rounds: int | None = None,
    blocks: int = 1,
) -> Float[Array, "b m n"]:
    """`complete_alternating` of many matrices, laid out as the device likes it.

    The same as under `jax.vmap`, but fast on a CPU with `rounds` too.
    """
    run = functools.partial(
        complete_alternating, config=config, rounds=rounds, blocks=blocks
    )
    shape, dtype = matrices.shape[1:], matrices.dtype
    if jax.default_backend() != "cpu" or not in_groups(config, shape, dtype):
        return jax.vmap(run)(matrices, masks)

    def one_pass(matrix: Array, mask: Array) -> Array:
        if rounds is None:
            run = functools.partial(
                _run_to_convergence, config=config, trace=False, blocks=blocks
            )
            return differentiable(run, config, blocks)(matrix, mask).matrix
        return _run_rounds(matrix, mask, config, rounds, blocks)

    return _map_groups(
        lambda matrix, mask: _alternate(one_pass, matrix, mask, config), matrices, masks
    )


def _alternate(
    one_pass: Callable[[Array, Array], Array],
    matrix: Array,
    mask: Array,
    config: SPLICConfig,
) -> Array:
    """`one_pass`, of one matrix or of ``[b, m, n]``, and again the other way round."""
    if not config.alternate:
        return one_pass(matrix, mask)
    # Without a target pass 1 gives the matrix back, and pass 2 has nothing to start
    # from: all pixels are anchors once more, and it too gives the matrix back.
    nothing_to_swap = jnp.all(mask, axis=(-2, -1), keepdims=True)

    def swap(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        matrix, mask = carry
        return (one_pass(matrix, mask), ~mask | nothing_to_swap), None

    (matrix, _), _ = jax.lax.scan(swap, (matrix, mask), length=2)
    return matrix


def _checked(
    matrix: Array | np.ndarray, mask: Array | np.ndarray
) -> tuple[Array, Array]:
    require_matrix("matrix", matrix)
    require_array("mask", mask)
    if matrix.shape != mask.shape:
        raise ValueError(
            "matrix and mask must be matrices of one shape, got "
            f"{matrix.shape} and {mask.shape}"
        )
    if mask.dtype != bool:
        raise ValueError(f"mask must be of booleans, got {described(mask)}")
    matrix, mask = jnp.asarray(matrix), jnp.asarray(mask)
    some = jnp.any(mask)
    finite = jnp.all(jnp.isfinite(jnp.where(mask, matrix, 0)))
    if not isinstance(some, jax.core.Tracer) and not some:
        raise ValueError("mask has no anchors: there is nothing to complete from")
    if not isinstance(finite, jax.core.Tracer) and not finite:
        raise ValueError("matrix is not finite at an anchor (NaN or infinity)")
    _report_anchors(some)
    _report_finite(finite)
    return matrix, mask


def _is_fast(config: SPLICConfig, shape: tuple[int, ...], dtype: Any) -> bool:
    # Where nothing is cut, the smallest singular values matter as much as the largest;
    # small matrices cost little; and the fast solver is as good as single precision.
    return (
        config.solver != "exact"
        and config.rank_cut
        and min(shape[:2]) >= tracked.SMALLEST_SIDE
        and config.rank_of(shape[:2]) < min(shape[:2])
        and dtype == jnp.float32
    )


def _start(
    matrix: Array, mask: Array, config: SPLICConfig, trace: bool = False
) -> tuple[_Problem, _State]:
    anchors = jnp.where(mask, matrix, 0) * config.pixel_scale
    if _is_fast(config, matrix.shape, matrix.dtype):
        rank = config.rank_of(matrix.shape[:2])
        size = tracked.basis_size(rank, min(matrix.shape[:2]))
        # A power of two near the largest singular value: squares of its square neither
        # overflow nor vanish, and nothing is rounded.
        bound = jnp.sqrt(small.total(small.total(anchors**2)))
        unit = jax.lax.stop_gradient(
            jnp.ldexp(jnp.ones_like(bound), jnp.frexp(bound)[1])
        )
        anchors = anchors / unit
        vectors, largest = tracked.decompose(anchors, size)
    else:
        unit, vectors = jnp.ones((), matrix.dtype), None
        # The values alone: their derivative, unlike that of the vectors, has no gaps.
        largest = jnp.linalg.svd(anchors, compute_uv=False)[0]
    delta = jnp.maximum(largest, _smallest_delta(matrix.dtype))
    changes = jnp.full(config.inner_steps if trace else 1, jnp.inf, matrix.dtype)
    state = _State(anchors, vectors, delta, jnp.zeros((), jnp.int32), changes)
    return _Problem(anchors, mask.astype(matrix.dtype), unit), state


def _round(
    state: _State,
    problem: _Problem,
    config: SPLICConfig,
    blocks: int,
    trace: bool = False,
) -> _State:
    """Lines 3 to 16 of Algorithm 1: the steps at one delta."""

    @functools.partial(
        jax.checkpoint,
        prevent_cse=False,  # which a loop does by itself
        policy=jax.checkpoint_policies.save_only_these_names(tracked.VECTORS),
    )
    def step(carry: _Carry, _: None) -> tuple[_Carry, Array | None]:
        x, vectors = carry[1:]
        new, vectors = _step(x, vectors, state.delta, problem, config, blocks)
        # Only the last one is looked at, unless somebody asks.
        change = jax.lax.stop_gradient(_relative_change(x, new)) if trace else None
        return (x, new, vectors), change

    (old, x, vectors), changes = jax.lax.scan(
        step, (state.x, state.x, state.vectors), length=config.inner_steps
    )
    if not trace:
        changes = jax.lax.stop_gradient(_relative_change(old, x))[None]
    delta = jnp.maximum(state.delta * config.delta_decay, _smallest_delta(x.dtype))
    return _State(x, vectors, delta, state.round + 1, changes)


def _relative_change(x: Array, new: Array) -> Array:
    moved = small.total(small.total((new - x) ** 2))
    size = small.total(small.total(x**2))
    return jnp.sqrt(jnp.where(size > 0, moved / jnp.where(size > 0, size, 1), moved))


def _step(
    x: Array,
    vectors: Array | None,
    delta: Array,
    problem: _Problem,
    config: SPLICConfig,
    blocks: int,
) -> tuple[Array, Array | None]:
    """Lines 4 to 13 of Algorithm 1."""
    rank = config.rank_of(x.shape[:2]) if config.rank_cut else min(x.shape[:2])
    relative = config.step_scaling == "relative"
    if vectors is None:
        cut, descended = spectral.cut_and_descend(
            x, delta, rank=rank, step_size=config.step_size, relative=relative
        )
    else:
        cut, descended, vectors = tracked.cut_and_descend(
            x,
            vectors,
            delta,
            rank=rank,
            step_size=config.step_size,
            unit=None if relative else problem.unit,
        )
    return _smooth_and_restore(cut, descended, problem, config, blocks), vectors


@functools.partial(small.kernel, static_argnums=(3, 4))
def _smooth_and_restore(
    cut: Array, descended: Array, problem: _Problem, config: SPLICConfig, blocks: int
) -> Array:
    """The total variation's part of line 11, and line 13."""
    if config.tv_weight:
        images = cut.reshape(len(cut), blocks, -1)
        gradient = jax.vmap(
            lambda image: total_variation_gradient(
                image, config.tv_form, config.tv_scales
            ),
            in_axes=1,
            out_axes=1,
        )(images)
        descended -= config.step_size * config.tv_weight * gradient.reshape(cut.shape)
    return problem.anchors + (1 - problem.mask) * descended


def _finish(x: Array, matrix: Array, problem: _Problem, config: SPLICConfig) -> Array:
    return jnp.where(problem.mask > 0, matrix, x * (problem.unit / config.pixel_scale))


def _smallest_delta(dtype: jnp.dtype) -> float:
    # A black image has no largest singular value; 1 / delta^4 must not overflow.
    smallest: float = float(jnp.finfo(dtype).tiny) ** 0.2
    return smallest
