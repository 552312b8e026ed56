"""Asking about those images alone that an attack is not done with.

A compiled program knows no batch that shrinks. It can hold a few sizes of batches, and
bring the images that are left into the smallest that takes them.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Bool, PRNGKeyArray

from attacks.loops import called
from attacks.types import LogitsFunction

# Each size is a program to compile: of few, for a gradient, and more without one.
GRADIENT_DIVISORS, QUERY_DIVISORS = (1, 4, 16), (1, 2, 4, 8, 16)
SMALLEST_BATCH = 4

Tree = TypeVar("Tree")


class Remaining(NamedTuple):
    """The images that matter, and the sizes of batches to bring them into.

    Attributes:
        active: which matter.
        sizes: of `batch_sizes`.
    """

    active: Bool[Array, " n"]
    sizes: tuple[int, ...]


def batch_sizes(
    logits_fn: LogitsFunction,
    measure: Callable[..., Array],
    given: tuple[Array, ...],
    images: Array,
    key: PRNGKeyArray,
    *,
    samples: int = 1,
    divisors: tuple[int, ...] = GRADIENT_DIVISORS,
) -> tuple[int, ...]:
    """The sizes of batches that a classifier may be asked in, from all images on.

    All images alone, where an image's place in the batch could matter to the answer:
    for a classifier that makes use of its key, draws numbers of its own, or takes no
    other size of batch; for a loss that takes none. A batch may be spread over all
    devices, and what is left of it is on each: so much is left out as to gain by it.

    Args:
        logits_fn: ``(images, key) -> logits``.
        measure, given: the loss, as in `attacks.oracle.Goal`.
        images: a batch, of which the shape alone counts.
        key: of a question.
        samples: questions to average over; several are for random classifiers.
        shares: the batch is to be divided by, the first of them 1.
    """
    n = len(images)
    smaller = [-(-n // share) for share in divisors[1:]]
    sizes = [n]
    sizes += [x for x in smaller if x >= SMALLEST_BATCH and x * jax.device_count() < n]
    in_mesh = not jax.sharding.get_abstract_mesh().empty
    if len(sizes) == 1 or samples > 1 or in_mesh:
        return (n,)
    program = jax.make_jaxpr(logits_fn)(_shaped(images), key).jaxpr
    if _reads(program, program.invars[-1]) or _draws(program):
        return (n,)
    for size in sizes[1:]:
        try:
            logits = jax.eval_shape(logits_fn, _shaped(images, size), key)
            rest = (_shaped(x, size) for x in given)
            losses = jax.eval_shape(measure, logits, *rest)
        except (TypeError, ValueError):  # it was made for this very batch
            return (n,)
        if logits.shape[:1] != (size,) or losses.shape != (size,):
            return (n,)
    return tuple(sizes)


def on_remaining(
    function: Callable[[Any], Tree], batch: Any, remaining: Remaining
) -> Tree:
    """A function of a batch, computed for what remains of it.

    Args:
        function: of a pytree of arrays ``[n, ...]``, to such a pytree; for any n.
        batch: such a pytree.
        remaining: which images matter.

    Returns:
        What the function makes of the images that matter; of others that, or zeros.
    """
    active, sizes = remaining
    if len(sizes) == 1:
        return function(batch)

    def whole(order: Array) -> Tree:
        del order
        return function(batch)

    def part(size: int, order: Array) -> Tree:
        chosen = order[:size]
        found = function(jax.tree.map(lambda x: x[chosen], batch))

        def back(x: Array) -> Array:
            return jnp.zeros((len(active), *x.shape[1:]), x.dtype).at[chosen].set(x)

        placed: Tree = jax.tree.map(back, found)
        return placed

    order = jnp.argsort(~active, stable=True)
    fitting = (jnp.asarray(sizes) >= active.sum()).sum() - 1
    parts = [partial(part, size) for size in sizes[1:]]
    mixed: Tree = jax.lax.switch(fitting, [whole, *parts], order)
    return mixed


def _shaped(x: Array, length: int | None = None) -> jax.ShapeDtypeStruct:
    length = len(x) if length is None else length
    return jax.ShapeDtypeStruct((length, *x.shape[1:]), x.dtype)


def _reads(program: Any, variable: Any) -> bool:
    """Whether a program makes use of a variable."""
    for equation in program.eqns:
        inner = called(equation)
        for place, read in enumerate(equation.invars):
            if read is not variable:
                continue
            if inner is None or _reads(inner.jaxpr, inner.jaxpr.invars[place]):
                return True
    return any(output is variable for output in program.outvars)


def _draws(program: Any) -> bool:
    """Whether a program, or one within it, draws random numbers."""
    for equation in program.eqns:
        if equation.primitive.name.startswith(("random_", "threefry", "rng_")):
            return True
        if any(_draws(inner) for inner in _programs(equation.params)):
            return True
    return False


def _programs(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
