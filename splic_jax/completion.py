"""Completion of matrices: checks of the arguments, and the choice of a solver.

`complete` is Algorithm 1, one pass; `complete_alternating` is section 3.4, first the
target pixels from the anchors, then the anchors from the completed targets. Both take
one matrix, are compiled once for each shape and settings, and can be batched by
`jax.vmap`. `complete_batch` is `complete_alternating` of a batch, laid out by device.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from splic_jax.arguments import described, require_array, require_matrix
from splic_jax.checks import reporter
from splic_jax.config import SPLICConfig
from splic_jax.layout import groups, small
from splic_jax.solvers import algorithm1, kernel, stopping, tracked
from splic_jax.solvers.algorithm1 import Completion, Solver
from splic_jax.solvers.exact import Exact
from splic_jax.solvers.stopping import Rule
from splic_jax.solvers.tracked import Tracked

_report_anchors = reporter("mask has no anchors")
_report_finite = reporter("matrix is not finite at an anchor")


def complete(
    matrix: Float[Array | np.ndarray, "m n"],
    mask: Bool[Array | np.ndarray, "m n"],
    config: SPLICConfig = SPLICConfig(),
    *,
    trace: bool = False,
    blocks: int = 1,
) -> Completion:
    """Completes a matrix from its anchors, paper Algorithm 1.

    Only the anchors of `matrix` are used. Convergence is tested once a round, as
    printed, on the round's last step. Under `jax.vmap` each matrix stops where it would
    have stopped alone: on the CPU bit for bit, on an accelerator up to the order of its
    sums. If every pixel is an anchor the matrix is returned as it is. A mask without
    anchors, and anchors that are not finite, are refused when concrete and reported
    by `checkify` when traced.

    The completed matrix is differentiable in reverse mode (`jax.grad`), once. The
    derivative is that of the rounds taken, whose number small changes of the matrix do
    not change, and includes that of the first delta; see `cut_and_descend` for where it
    exists. Its memory grows with `max_steps`: the iterate and singular vectors of each
    step are stored where no side is above 64, of larger matrices those of each round.

    Args:
        matrix: pixel values; images are in [0, 1].
        mask: True at the anchors.
        config: the settings; `keep_probability`, `alternate`, `channels` and `mask`
            are not used here.
        trace: also return the relative change of every step.
        blocks: number of images of equal width side by side in `matrix` (concatenated
            channels); the total variation does not reach across their borders.

    Returns:
        A `Completion`.

    Raises:
        TypeError: if `matrix` or `mask` is not an array.
        ValueError: for shapes that differ, wrong dtypes, a rank above min(m, n), no
            anchors, or anchors that are not finite.
    """
    done: Completion = _complete(*_checked(matrix, mask), config, trace, blocks)
    return done


# Without `jax.jit` it would be compiled again on each call.
@partial(jax.jit, static_argnames=("config", "trace", "blocks"))
def _complete(
    matrix: Array, mask: Array, config: SPLICConfig, trace: bool, blocks: int
) -> Completion:
    def run(matrix: Array, mask: Array) -> Completion:
        return run_one(matrix, mask, config, trace=trace, blocks=blocks)

    if jax.default_backend() != "cpu":
        return run(matrix, mask)
    # One matrix or one group at a time: each stops as soon as it has converged, and
    # sums in the same order as alone.
    grouped = in_groups(config, matrix.shape, matrix.dtype)
    apart = groups.in_groups if grouped else jax.custom_batching.sequential_vmap
    return _differentiable(run, apart)(matrix, mask)


def run_one(
    matrix: Array,
    mask: Array,
    config: SPLICConfig,
    *,
    trace: bool = False,
    blocks: int = 1,
    rule: Rule = stopping.PRINTED,
) -> Completion:
    """`complete` without checks, traced into the caller's program.

    Args:
        matrix, mask, config, trace, blocks: as in `complete`.
        rule: when to stop.
    """
    solver = solver_of(config, matrix.shape, matrix.dtype, blocks)
    done, state = algorithm1.complete(solver, (matrix, mask), rule=rule, trace=trace)
    return algorithm1.completion_of(done, state, config)


def solver_of(
    config: SPLICConfig, shape: tuple[int, ...], dtype: Any, blocks: int = 1
) -> Solver:
    """The solver of one matrix of this shape: tracked where supported, else exact."""
    solver = Tracked if tracked.supports(config, shape, dtype) else Exact
    return solver(config, blocks)


def _differentiable(
    run: Callable[[Array, Array], Completion], apart: Callable[..., Any]
) -> Callable[[Array, Array], Completion]:
    """`run` batched by `apart`, whose derivative JAX cannot find by itself."""

    @jax.custom_vjp
    def completed(matrix: Array, mask: Array) -> Completion:
        done: Completion = apart(run)(matrix, mask)
        return done

    def forward(matrix: Array, mask: Array) -> tuple[Completion, Any]:
        structure = None  # of the pull-back, which differs from trace to trace

        def with_pull(matrix: Array, mask: Array) -> tuple[Completion, list[Array]]:
            def complete(matrix: Array) -> tuple[Array, Completion]:
                done = run(matrix, mask)
                return done.matrix, done

            nonlocal structure
            _, pull, done = jax.vjp(complete, matrix, has_aux=True)
            leaves, structure = jax.tree.flatten(pull)
            return done, leaves

        done, leaves = apart(with_pull)(matrix, mask)
        return done, jax.tree.unflatten(structure, leaves)

    def backward(pull: Any, cotangent: Completion) -> tuple[Array, None]:
        leaves, structure = jax.tree.flatten(pull)

        def pulled(leaves: list[Array], of: Array) -> Array:
            done: Array = jax.tree.unflatten(structure, leaves)(of)[0]
            return done

        return apart(pulled)(leaves, cotangent.matrix), None

    completed.defvjp(forward, backward)
    return completed


def in_groups(
    config: SPLICConfig, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> bool:
    """Whether matrices of this shape are completed in groups on the CPU."""
    return tracked.supports(config, shape, dtype) and max(shape) <= small.LARGEST


def complete_alternating(
    matrix: Float[Array | np.ndarray, "m n"],
    mask: Bool[Array | np.ndarray, "m n"],
    config: SPLICConfig = SPLICConfig(),
    *,
    blocks: int = 1,
) -> Float[Array, "m n"]:
    """Alternated SPLIC, paper section 3.4.

    Pass 1 completes the targets from the anchors; pass 2 takes the completed targets
    as anchors and completes the original anchors from them. The result depends on the
    anchors' values alone. If there are no targets the matrix is returned as it is.

    Args:
        matrix, mask, config, blocks: as in `complete`; ``config.alternate=False`` stops
            after pass 1.

    Returns:
        The completed matrix.

    Raises:
        TypeError, ValueError: as `complete`.
    """
    done: Array = _complete_alternating(*_checked(matrix, mask), config, blocks)
    return done


@partial(jax.jit, static_argnames=("config", "blocks"))
def _complete_alternating(
    matrix: Array, mask: Array, config: SPLICConfig, blocks: int
) -> Array:
    def one_pass(matrix: Array, mask: Array) -> Array:
        return complete(matrix, mask, config, blocks=blocks).matrix

    return algorithm1.alternate(one_pass, matrix, mask, config)


def complete_batch(
    matrices: Float[Array, "b m n"],
    masks: Bool[Array, "b m n"],
    config: SPLICConfig = SPLICConfig(),
    *,
    blocks: int = 1,
    interpret: bool = False,
) -> Float[Array, "b m n"]:
    """`complete_alternating` of a batch of matrices, laid out for the device.

    By the kernel where it supports them and the settings ask for it; on a CPU in groups
    where matrices are small; else by `jax.vmap`.

    Args:
        matrices, masks, config, blocks: as in `complete_alternating`, for each matrix.
        interpret: run the kernel without compiling it, on any device, for tests.

    Returns:
        The completed matrices.
    """
    shape, dtype = matrices.shape[1:], matrices.dtype
    asked_for = interpret or kernel.is_wanted(config)
    if asked_for and kernel.supports(config, shape, dtype, blocks=blocks):
        by_kernel = kernel.complete_by_kernel(
            config, blocks, stopping.PRINTED, interpret
        )
        return algorithm1.alternate(by_kernel, matrices, masks, config)
    if jax.default_backend() != "cpu" or not in_groups(config, shape, dtype):
        run = partial(complete_alternating, config=config, blocks=blocks)
        return jax.vmap(run)(matrices, masks)

    def one_pass(matrix: Array, mask: Array) -> Array:
        return run_one(matrix, mask, config, blocks=blocks).matrix

    def both_passes(matrix: Array, mask: Array) -> Array:
        return algorithm1.alternate(one_pass, matrix, mask, config)

    return groups.map_groups(both_passes, matrices, masks)


def _checked(
    matrix: Array | np.ndarray, mask: Array | np.ndarray
) -> tuple[Array, Array]:
    require_matrix("matrix", matrix)
    require_array("mask", mask)
    if matrix.shape != mask.shape:
        raise ValueError(
            "matrix and mask must be matrices of the same shape, got "
            f"{matrix.shape} and {mask.shape}"
        )
    if mask.dtype != bool:
        raise ValueError(f"mask must be boolean, got {described(mask)}")
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
