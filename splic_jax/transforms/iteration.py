"""A loop that stops when it is done and can still be differentiated."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

Step = Callable[[Any, Any], Any]
Unfinished = Callable[[Any], Bool[Array, ""]]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 4))
def iterate(
    step: Step, unfinished: Unfinished, state: Any, problem: Any, most: int
) -> Any:
    """Repeats a step while it is unfinished, at most a number of times.

    A `jax.lax.while_loop` that has a reverse-mode derivative: that of the steps taken,
    for which all `most` of them are run again, those after the last without effect.
    (There is no forward mode.) Memory for it grows with `most` states.

    Args:
        step: ``(state, problem) -> state``; differentiable.
        unfinished: ``state -> bool``.
        state: the first state, arrays.
        problem: arrays that every step reads.
        most: number of steps at most.

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


def _forward(
    step: Step, unfinished: Unfinished, state: Any, problem: Any, most: int
) -> tuple[Any, tuple[Any, Any]]:
    return iterate(step, unfinished, state, problem, most), (state, problem)


def _backward(
    step: Step,
    unfinished: Unfinished,
    most: int,
    saved: tuple[Any, Any],
    cotangent: Any,
) -> tuple[Any, Any]:
    def run(state: Any, problem: Any) -> Any:
        @jax.checkpoint
        def advance(state: Any, _: None) -> tuple[Any, None]:
            going_on, new = unfinished(state), step(state, problem)
            keep = partial(jnp.where, going_on)
            return jax.tree.map(keep, new, state), None

        return jax.lax.scan(advance, state, length=most)[0]

    pulled: tuple[Any, Any] = jax.vjp(run, *saved)[1](cotangent)
    return pulled


iterate.defvjp(_forward, _backward)
