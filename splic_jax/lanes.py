"""Products and sums of many small matrices side by side, ``[rows, columns, lanes]``.

The matrices of a batch lie along the last axis, so that a CPU's vector unit works on
one entry of many matrices at a time: no transposes, no shuffles, and no operation that
mixes lanes, so that a matrix's result does not depend on its neighbours. XLA has no
such product of its own; written out term by term it compiles to one. The same functions
take a single matrix ``[rows, columns]``, for `jax.vmap` and for matrices large enough
for the ordinary product.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.interpreters import batching
from jaxtyping import Array


def kernel(function: Callable | None = None, **jit_options: Any) -> Callable:
    """Compiles a function apart from what is around it.

    XLA on the CPU would else fuse a product into each of its users, and compute it
    again for every term there. It also makes the roundings those of the function alone.
    """
    if function is None:
        return functools.partial(kernel, **jit_options)
    compiled = jax.jit(function, **jit_options)

    @functools.wraps(function)
    def apart(*arguments):
        with set_xla_metadata(inlineable="false"):
            return compiled(*arguments)

    return apart


def transpose(a: Array) -> Array:
    return jnp.swapaxes(a, 0, 1)


def _product(a: Array, b: Array) -> Array:
    if a.ndim == 2:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    total = a[:, 0, None] * b[0]
    for k in range(1, a.shape[1]):
        total += a[:, k, None] * b[k]
    return total


@kernel
def product(a: Array, b: Array) -> Array:
    """``A B`` for each lane."""
    return _product(a, b)


@kernel
def product_tn(a: Array, b: Array) -> Array:
    """``A^T B`` for each lane."""
    return _product(transpose(a), b)


@kernel
def product_nt(a: Array, b: Array) -> Array:
    """``A B^T`` for each lane."""
    return _product(a, transpose(b))


def linear(form: Callable, fixed: Array, moving: Array, *, left: bool) -> Array:
    """One of the three products as a linear function of one factor.

    For tangents: written out term by term, a product's transpose would become a sum
    of as many padded arrays, where it is again one of the products.

    Args:
        form: `product`, `product_tn` or `product_nt`.
        fixed: the factor that is not differentiated.
        moving: the other one, linear.
        left: whether `moving` is the left factor.
    """
    backward = {
        (product, True): lambda fixed, ct: product_nt(ct, fixed),
        (product, False): product_tn,
        (product_tn, True): product_nt,
        (product_tn, False): product,
        (product_nt, True): lambda fixed, ct: product(ct, fixed),
        (product_nt, False): lambda fixed, ct: product_tn(ct, fixed),
    }[form, left]

    def forward(fixed: Array, moving: Array) -> Array:
        return form(moving, fixed) if left else form(fixed, moving)

    if moving.ndim == 2:
        return forward(fixed, moving)
    _batch_linear_calls()
    return jax.custom_derivatives.linear_call(forward, backward, fixed, moving)


@functools.cache
def _batch_linear_calls() -> None:
    """Teaches `jax.vmap` the calls of `linear`, which JAX has no rule for."""
    program = jax.make_jaxpr(
        lambda x: jax.custom_derivatives.linear_call(
            lambda _, x: x, lambda _, ct: ct, (), x
        )
    )(jax.ShapeDtypeStruct((), jnp.float32))
    primitive = program.eqns[0].primitive

    def one_after_another(values, axes, **parameters):
        moved = [
            None if axis is None else jnp.moveaxis(value, axis, 0)
            for value, axis in zip(values, axes, strict=True)
        ]

        def one(values_of_one):
            filled = [
                value if own is None else own
                for value, own in zip(values, values_of_one, strict=True)
            ]
            return primitive.bind(*filled, **parameters)

        results = jax.lax.map(one, moved)
        return results, [0] * len(results)

    batching.primitive_batchers[primitive] = one_after_another


def identity(a: Array) -> Array:
    """The identity matrix that can be added to the square matrices `a`."""
    size = a.shape[0]
    return jnp.eye(size, dtype=a.dtype).reshape(size, size, *(1,) * (a.ndim - 2))


@kernel
def diagonal(a: Array) -> Array:
    """The diagonals ``[size, *lanes]``."""
    return _sum(jnp.where(identity(a) > 0, a, 0))


@kernel
def total(a: Array) -> Array:
    """Sum over the first axis."""
    return _sum(a)


@kernel
def largest(a: Array) -> Array:
    """Maximum over the first axis."""
    return _reduced(a, jnp.max, jnp.maximum)


def _sum(a: Array) -> Array:
    return _reduced(a, jnp.sum, jnp.add)


def _reduced(a: Array, whole: Callable, pairwise: Callable) -> Array:
    if a.shape[0] > 64:
        return whole(a, axis=0)
    return functools.reduce(pairwise, list(a))


@kernel(static_argnums=1)
def largest_ones(values: Array, rank: int) -> Array:
    """1 where a value is among the `rank` largest of its lane, 0 elsewhere.

    Equal values count in the order of their places, so it is always `rank` of them.
    """
    size = values.shape[0]
    place = jnp.arange(size).reshape(size, *(1,) * (values.ndim - 1))
    before = values[:, None] > values
    before |= (values[:, None] == values) & (place[:, None] < place)
    return (_sum(before.astype(values.dtype)) < rank).astype(values.dtype)


@kernel
def choose(condition: Array, new: Any, old: Any) -> Any:
    """`new` in the lanes where the condition holds, else `old`; any pytree."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
