"""Queries for only those images that an attack has not finished.

Shapes in a compiled program are fixed, so a batch cannot shrink. The program has a
few batch sizes instead, and puts the remaining images into the smallest that fits them.
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

# Each size is compiled separately, so there are fewer for queries with a gradient.
GRADIENT_DIVISORS, QUERY_DIVISORS = (1, 4, 16), (1, 2, 4, 8, 16)
SMALLEST_BATCH = 4

Tree = TypeVar("Tree")


class Remaining(NamedTuple):
    """The images still to be queried, and the batch sizes to choose from.

    Attributes:
        active: which images.
        sizes: from `batch_sizes`.
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
    """The batch sizes that a classifier can be queried with, largest first.

    Only the full batch where an image's position in the batch could change its logits
    (the classifier uses its key or draws random numbers), or where the classifier or
    the loss rejects other batch sizes. A full batch may be sharded over all devices,
    but a smaller one runs on each of them, so only sizes up to 1 / devices of the
    batch are used.

    Args:
        logits_fn: ``(images, key) -> logits``.
        measure, given: the loss, as in `attacks.oracle.Goal`.
        images: a batch, of which only the shape is used.
        key: for a query.
        samples: keys to average over; more than 1 implies a random classifier.
        divisors: of the full batch size; the first is 1.
    """
    n = len(images)
    smaller = [-(-n // divisor) for divisor in divisors[1:]]
    sizes = [n]
    for size in smaller:
        if size >= SMALLEST_BATCH and size * jax.device_count() <= n:
            sizes.append(size)
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
        except (TypeError, ValueError):  # made for this batch size
            return (n,)
        if logits.shape[:1] != (size,) or losses.shape != (size,):
            return (n,)
    return tuple(sizes)


def on_remaining(
    function: Callable[[Any], Tree], batch: Any, remaining: Remaining
) -> Tree:
    """Applies a function to the remaining images of a batch.

    Args:
        function: maps a pytree of arrays ``[n, ...]`` to another, for any n.
        batch: such a pytree.
        remaining: the images to compute.

    Returns:
        The function's results for the remaining images; those or zeros for others.
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
    """Whether a program uses a variable."""
    for equation in program.eqns:
        inner = called(equation)
        for place, read in enumerate(equation.invars):
            if read is not variable:
                continue
            if inner is None or _reads(inner.jaxpr, inner.jaxpr.invars[place]):
                return True
    return any(output is variable for output in program.outvars)


def _draws(program: Any) -> bool:
    """Whether a program, or one inside it, draws random numbers."""
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
