"""A differentiable loop with an early stop."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from splic_jax.layout.small import anywhere

Step = Callable[[Any, Any], Any]
Unfinished = Callable[[Any], Bool[Array, ""]]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 4))
def iterate(
    step: Step, unfinished: Unfinished, state: Any, problem: Any, most: int
) -> Any:
    """Repeats a step while `unfinished`, at most `most` times.

    A `jax.lax.while_loop` with a reverse-mode derivative: that of the steps taken, as
    small changes do not change their number. (There is no forward mode.) The residuals
    of each step are stored, so memory grows with `most`; a `jax.checkpoint` around
    `step` chooses which.

    Args:
        step: ``(state, problem) -> state``; differentiable.
        unfinished: ``state -> bool``.
        state: the first state, arrays.
        problem: arrays that every step reads.
        most: maximum number of steps.

    Returns:
        The last state.
    """

    def going_on(carry: tuple[Array | int, Any]) -> Array:
        count, state = carry
        return (count < most) & unfinished(state)

    def advance(carry: tuple[Array | int, Any]) -> tuple[Array | int, Any]:
        count, state = carry
        return count + 1, step(state, problem)

    start: tuple[Array | int, Any] = (0, state)
    return jax.lax.while_loop(going_on, advance, start)[1]


# The pull-back of a step: from cotangents of the float arrays of the state after it to
# those of the state before it, followed by the problem's.
Pull = Callable[[list[Array]], tuple[list[Array]]]


def _forward(
    step: Step, unfinished: Unfinished, state: Any, problem: Any, most: int
) -> tuple[Any, Any]:
    def advance(state: Any) -> tuple[Any, list[Array], Callable[..., Any]]:
        new, pull = _step_and_pull(step, state, problem)
        return new, *_taken_apart(pull, problem)

    kept = [
        jnp.zeros((most, *a.shape), a.dtype)
        for a in jax.eval_shape(lambda state: advance(state)[1], state)
    ]
    together: Callable[..., Any] | None = None

    # Under `jax.vmap` all run until the last one is done, and finished ones keep their
    # state. With one count for all, the stored residuals need no selection.
    def going_on(carry: Any) -> Array:
        count, _, _, state = carry
        more: Array = (count < most) & anywhere(unfinished(state))
        return more

    def record(carry: Any) -> Any:
        nonlocal together
        count, kept, active, state = carry
        now = unfinished(state)
        new, own, together = advance(state)
        kept = [all.at[count].set(one) for all, one in zip(kept, own, strict=True)]
        state = jax.tree.map(partial(jnp.where, now), new, state)
        return count + 1, kept, active.at[count].set(now), state

    start = (0, kept, jnp.zeros(most, bool), state)
    count, kept, active, last = jax.lax.while_loop(going_on, record, start)
    return last, (jax.tree_util.Partial(together), count, kept, active, problem)


def _backward(
    step: Step, unfinished: Unfinished, most: int, saved: Any, cotangent: Any
) -> tuple[Any, Any]:
    del step, unfinished, most
    together, count, kept, active, problem = saved
    of_state = _numbers(cotangent)

    def go_back(done: Array, carry: Any) -> Any:
        of_state, of_problem = carry
        index = count - 1 - done
        pull: Pull = together([all[index] for all in kept], problem)
        (pulled,) = pull(of_state)
        before, more = pulled[: len(of_state)], pulled[len(of_state) :]
        now = active[index]
        of_state = jax.tree.map(partial(jnp.where, now), before, of_state)
        more = jax.tree.map(lambda a: jnp.where(now, a, 0), more)
        return of_state, jax.tree.map(jnp.add, of_problem, more)

    start = of_state, [jnp.zeros_like(a) for a in _numbers(problem)]
    of_state, of_problem = jax.lax.fori_loop(0, count, go_back, start)
    return _cotangent(cotangent, of_state), _cotangent(problem, of_problem)


iterate.defvjp(_forward, _backward)


def _step_and_pull(step: Step, state: Any, problem: Any) -> tuple[Any, Pull]:
    count = len(_numbers(state))

    def of_numbers(numbers: list[Array]) -> tuple[list[Array], Any]:
        new = step(
            _with_numbers(state, numbers[:count]),
            _with_numbers(problem, numbers[count:]),
        )
        return _numbers(new), new

    numbers = _numbers(state) + _numbers(problem)
    _, pull, new = jax.vjp(of_numbers, numbers, has_aux=True)
    return new, pull


def _taken_apart(pull: Any, problem: Any) -> tuple[list[Array], Callable[..., Any]]:
    """The arrays of a pull-back that are not the problem's, and how to rebuild it."""
    leaves, structure = jax.tree.flatten(pull)
    shared = {id(a): place for place, a in enumerate(jax.tree.leaves(problem))}
    places = [shared.get(id(leaf)) for leaf in leaves]
    own = [a for a, place in zip(leaves, places, strict=True) if place is None]

    def together(own: Sequence[Array], problem: Any) -> Any:
        rest, of_problem = iter(own), jax.tree.leaves(problem)
        found = (next(rest) if p is None else of_problem[p] for p in places)
        return jax.tree.unflatten(structure, found)

    return own, together


def _is_number(a: Any) -> bool:
    """Whether an array has a derivative; integers and booleans have none."""
    return bool(jnp.issubdtype(a.dtype, jnp.inexact))


def _numbers(tree: Any) -> list[Array]:
    return [a for a in jax.tree.leaves(tree) if _is_number(a)]


def _with_numbers(tree: Any, numbers: Sequence[Array]) -> Any:
    rest = iter(numbers)
    return jax.tree.map(lambda a: next(rest) if _is_number(a) else a, tree)


def _cotangent(tree: Any, numbers: Sequence[Array]) -> Any:
    """A cotangent of a tree, given those of its float arrays."""
    rest = iter(numbers)
    zero = jax.dtypes.float0

    def of(a: Any) -> Any:
        return next(rest) if _is_number(a) else np.zeros(a.shape, zero)

    return jax.tree.map(of, tree)
