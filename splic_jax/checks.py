"""Checks of traced values, reported through `jax.experimental.checkify`."""

from collections.abc import Callable

import jax
from jax.experimental import checkify
from jax.extend import core
from jaxtyping import Array, Bool


def reporter(message: str) -> Callable[[Bool[Array, ""]], list[Array]]:
    """`checkify.debug_check` with a message, traced once and called often.

    checkify numbers checks in the order they are traced, and the numbers are part of
    the program. A check that is traced once keeps its number; otherwise JAX's cache on
    disk would miss unless everything was traced in the same order as before.
    """

    def check(condition: Bool[Array, ""]) -> None:
        checkify.debug_check(condition, message)

    traced: Callable[[Bool[Array, ""]], list[Array]] = core.jaxpr_as_fun(
        jax.make_jaxpr(check)(jax.ShapeDtypeStruct((), bool))
    )
    return traced
