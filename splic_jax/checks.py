"""Conditions on traced values, for those who ask by `jax.experimental.checkify`."""

from collections.abc import Callable

import jax
from jax.experimental import checkify
from jax.extend import core
from jaxtyping import Array, Bool


def reporter(message: str) -> Callable[[Bool[Array, ""]], list[Array]]:
    """`checkify.debug_check` with a message, to be made once and called often.

    checkify numbers checks as they are traced, and the numbers stay in the program. One
    that is traced once has one number: else JAX would find none of the programs again
    that it keeps on disk, unless all was traced before in the same order.
    """

    def check(condition: Bool[Array, ""]) -> None:
        checkify.debug_check(condition, message)

    traced: Callable[[Bool[Array, ""]], list[Array]] = core.jaxpr_as_fun(
        jax.make_jaxpr(check)(jax.ShapeDtypeStruct((), bool))
    )
    return traced
