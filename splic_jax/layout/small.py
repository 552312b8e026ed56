"""Products and sums of small matrices, for batches of them under `jax.vmap`.

Each is a function of one matrix. On a CPU a product is written out term by term,

    (A B)[i, :] = A[i, 0] B[0, :] + A[i, 1] B[1, :] + ...

where a row fills vector registers and each term is one multiply-add, without a shuffle
or a transpose; XLA's own product calls a library for each matrix instead. No operation
mixes matrices, so a result is the same to the bit in every batch. On other devices, and
for large matrices, it is the ordinary product.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

# With sides up to this, products are written out.
LARGEST = 64

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function, **jit_options: Any) -> Function:
    """Compiles a function separately from its caller, on the CPU.

    Otherwise XLA on the CPU would fuse a product into each of its users, and compute it
    again for every term there. This also makes rounding independent of the caller. On
    other devices it does nothing, to launch fewer kernels.
    """
    compiled = jax.jit(function, **jit_options)

    @functools.wraps(function)
    def apart(*arguments: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*arguments)
        with set_xla_metadata(inlineable="false"):
            return compiled(*arguments)

    return cast(Function, apart)


def dot(a: Array, b: Array) -> Array:
    """``A B``, fused with other operations of a `kernel`."""
    return _bind(a, b, form="nn")


def dot_tn(a: Array, b: Array) -> Array:
    """``A^T B``, fused with other operations of a `kernel`."""
    return _bind(a, b, form="tn")


@kernel
def product(a: Array, b: Array) -> Array:
    """``A B``."""
    return dot(a, b)


@kernel
def product_tn(a: Array, b: Array) -> Array:
    """``A^T B``."""
    return dot_tn(a, b)


def product_nt(a: Array, b: Array) -> Array:
    """``A B^T``."""
    return product(a, transpose(b))


@kernel
def transpose(a: Array) -> Array:
    """``A^T`` of the last two axes, copied."""
    return jnp.swapaxes(a, -1, -2)


# A primitive, so that its transpose is a product again; that of a written-out product
# would be a sum of as many padded arrays.
_product = Primitive("splic_small_product")


def _bind(a: Array, b: Array, *, form: str) -> Array:
    result: Array = _product.bind(a, b, form=form)
    return result


def _ordinary(a: Array, b: Array, *, form: str) -> Array:
    """Either form by XLA's product of the last two axes."""
    if form == "tn":
        a = jnp.swapaxes(a, -1, -2)
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _written_out(a: Array, b: Array, *, form: str) -> Array:
    if form == "tn":
        a = jnp.swapaxes(a, -1, -2)
    if max(*a.shape[-2:], b.shape[-1]) > LARGEST:
        return _ordinary(a, b, form="nn")
    terms = (a[..., k, None] * b[..., k, None, :] for k in range(a.shape[-1]))
    return functools.reduce(jnp.add, terms)


def _shape(a: Any, b: Any, *, form: str) -> Any:
    return jax.core.ShapedArray(
        (*a.shape[:-2], a.shape[-2 if form == "nn" else -1], b.shape[-1]), a.dtype
    )


def _transposed_left(cotangent: Array, a: Any, b: Array, *, form: str) -> Array:
    if form == "nn":
        return _bind(cotangent, transpose(b), form="nn")
    return _bind(b, transpose(cotangent), form="nn")


def _transposed_right(cotangent: Array, a: Array, b: Any, *, form: str) -> Array:
    return _bind(a, cotangent, form="tn" if form == "nn" else "nn")


def _batched(arrays: Any, axes: Any, *, form: str) -> tuple[Array, int]:
    size = next(
        a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None
    )
    arrays = (
        batching.bdim_at_front(a, axis, size)
        for a, axis in zip(arrays, axes, strict=True)
    )
    return _bind(*arrays, form=form), 0


_product.def_abstract_eval(_shape)
_product.def_impl(jax.jit(_product.bind, static_argnames="form"))
ad.defbilinear(_product, _transposed_left, _transposed_right)
batching.primitive_batchers[_product] = _batched
mlir.register_lowering(_product, mlir.lower_fun(_ordinary, multiple_results=False))
mlir.register_lowering(
    _product, mlir.lower_fun(_written_out, multiple_results=False), platform="cpu"
)


def diagonal(a: Array) -> Array:
    """The diagonal of a square matrix."""
    return total(jnp.where(jnp.eye(len(a), dtype=bool), a, 0))


def total(a: Array) -> Array:
    """Sum over the first axis."""
    return _reduced(a, jnp.sum, jnp.add)


def largest(a: Array) -> Array:
    """Maximum over the first axis."""
    return _reduced(a, jnp.max, jnp.maximum)


def _reduced(
    a: Array,
    whole: Callable[..., Array],
    pairwise: Callable[[Array, Array], Array],
) -> Array:
    # Row by row, so that a vector register holds a part of the result.
    if len(a) > LARGEST:
        return whole(a, axis=0)
    rows: list[Array] = list(a)
    return functools.reduce(pairwise, rows)


def largest_ones(values: Array, rank: int) -> Array:
    """1 where a value is among the `rank` largest, 0 elsewhere.

    Ties are broken by index, so there are always `rank` ones.
    """
    place = jnp.arange(len(values))
    before = values[:, None] > values
    before |= (values[:, None] == values) & (place[:, None] < place)
    return (total(before.astype(values.dtype)) < rank).astype(values.dtype)


@jax.custom_batching.custom_vmap
def anywhere(condition: Array) -> Array:
    """A condition; under `jax.vmap`, whether it holds for any matrix of the batch.

    For `jax.lax.cond`, which would otherwise run both branches. Both must give the same
    result where the condition does not hold.
    """
    return condition


@anywhere.def_vmap
def _(size: int, batched: list[bool], condition: Array) -> tuple[Array, bool]:
    del size, batched
    return jnp.any(condition), False
