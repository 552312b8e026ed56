"""The work of the fused kernel for an image: bytes moved, and multiply-adds."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from splic_jax import SPLICConfig
from splic_jax.layout import small
from splic_jax.solvers import algorithm1, kernel, stopping, tracked
from splic_jax.solvers.tracked import Tracked

# Loops around a product in the kernel: over rounds, steps, and full corrections.
_IN_A_STEP, _IN_A_CORRECTION = 2, 3


class Work(NamedTuple):
    """The work of one completion, that is one matrix in one pass.

    Attributes:
        bytes: read and written by the kernel.
        each_step: multiply-adds of the matrix products in a step whose only correction
            is the last one.
        each_correction: those in each full correction before it.
    """

    bytes: int
    each_step: int
    each_correction: int


class Taken(NamedTuple):
    """Completed matrices, with their steps and corrections.

    Attributes:
        matrices: the completed matrices.
        steps: of each matrix.
        corrections: full corrections of each matrix, over all its steps.
    """

    matrices: Float[Array, "b m n"]
    steps: Int[Array, " b"]
    corrections: Int[Array, " b"]


def work(shape: tuple[int, int], config: SPLICConfig) -> Work:
    """Counts the kernel's work, padding included, from its jaxpr.

    Raises:
        ValueError: for what `kernel.supports` rejects.
    """
    jaxpr = jax.make_jaxpr(
        lambda *arrays: kernel.complete_fused(*arrays, config, interpret=True)
    )(jnp.zeros((1, *shape)), jnp.ones((1, *shape), bool)).jaxpr
    # The first one computes the Gram matrix of the start.
    *_, call = (e for e, _ in _equations(jaxpr) if e.primitive.name == "pallas_call")
    moved = [variable.aval for variable in (*call.invars, *call.outvars)]
    adds = dict.fromkeys((_IN_A_STEP, _IN_A_CORRECTION), 0)
    for equation, loops in _equations(call.params["jaxpr"]):
        if equation.primitive.name == "dot_general" and loops in adds:
            a, b = (variable.aval.shape for variable in equation.invars)
            ((along,), _), _ = equation.params["dimension_numbers"]
            adds[loops] += math.prod(a) * math.prod(b) // a[along]
    return Work(sum(a.size * a.dtype.itemsize for a in moved), *adds.values())


def _equations(jaxpr: Any, loops: int = 0) -> Iterator[tuple[Any, int]]:
    """All equations of a jaxpr and of what it calls, and the loops around each.

    Without `kernel._mend`, which seldom runs, so that the count is a lower bound.
    """
    for equation in jaxpr.eqns:
        if equation.params.get("name") == kernel._mend.__name__:
            continue
        yield equation, loops
        inside = loops + (equation.primitive.name in ("scan", "while"))
        for value in jax.tree.leaves(list(equation.params.values())):
            value = getattr(value, "jaxpr", value)
            if hasattr(value, "eqns"):
                yield from _equations(value, inside)


def taken(
    matrices: Float[Array | np.ndarray, "b m n"],
    masks: Bool[Array | np.ndarray, "b m n"],
    config: SPLICConfig,
) -> Taken:
    """Completes matrices by the fast solver, counting steps and corrections."""

    def one(matrix: Array, mask: Array) -> Taken:
        solver = Tracked(config)
        rank = config.rank_of(matrix.shape)
        problem, start = algorithm1.start(solver, (matrix, mask))

        def corrections(state: algorithm1.State) -> Array:
            delta = state.progress.delta

            def step(carry, _):
                x, vectors = carry
                tall = x if len(vectors) == x.shape[1] else x.T
                xv = small.product(tall, vectors)
                angles = tracked.angles_of(small.product_tn(xv, xv), rank)
                wanted = tracked.corrections(angles.last, angles.turn, delta)
                return algorithm1.step(solver, x, vectors, delta, problem), wanted

            carry = state.x, state.basis
            return jnp.sum(jax.lax.scan(step, carry, length=config.inner_steps)[1])

        def unfinished(carry):
            return stopping.unfinished(carry[0].progress, config)

        def advance(carry):
            state, count = carry
            new = algorithm1.one_round(solver, state, problem)
            return new, count + corrections(state)

        state, count = jax.lax.while_loop(unfinished, advance, (start, jnp.int32(0)))
        done = solver.finish(state.x, (matrix, mask), problem.unit)
        return Taken(done, state.progress.round * config.inner_steps, count)

    return jax.jit(jax.vmap(one))(jnp.asarray(matrices), jnp.asarray(masks))


def of_an_image(
    images: Float[np.ndarray, "n h w c"],
    masks: Bool[Array, "n h w c"],
    config: SPLICConfig,
) -> dict[str, float]:
    """The work per image, over all passes and channels, as plain numbers.

    Not counted: the start of each completion (a decomposition), the masks, and all
    operations other than matrix products.
    """
    each = work(images.shape[1:3], config)
    matrices, masks = (
        np.moveaxis(np.asarray(a), -1, 1).reshape(-1, *images.shape[1:3])
        for a in (images, masks)
    )
    completions = steps = corrections = 0
    for _ in range(1 + config.alternate):
        done = taken(matrices, masks, config)
        matrices, masks = done.matrices, ~masks
        completions += len(matrices)
        steps += int(done.steps.sum())
        corrections += int(done.corrections.sum())
    adds = steps * each.each_step + corrections * each.each_correction
    return {
        "images": len(images),
        "bytes_per_image": completions * each.bytes / len(images),
        "multiply_adds_per_image": adds / len(images),
        "steps_per_completion": steps / completions,
        "corrections_per_step": corrections / steps,
    }


def milliseconds(
    counts: dict[str, float], tflops: float | None, gbytes: float | None
) -> float | None:
    """The least time per image at these peaks, counting 2 FLOP per multiply-add."""
    bounds = []
    if tflops:
        bounds.append(2 * counts["multiply_adds_per_image"] / (tflops * 1e9))
    if gbytes:
        bounds.append(counts["bytes_per_image"] / (gbytes * 1e6))
    return max(bounds, default=None)
