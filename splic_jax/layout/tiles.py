"""Products and sums of a matrix in tiles, held by a single program.

The counterpart of `splic_jax.layout.small`, whose sums split arrays into rows, which a
kernel cannot do.

A matrix is held as tiles, one above the other: one tile per image side by side in it
(concatenated channels). Tiles may be padded with zeros: zero rows and columns stay zero
in every product, add only zero singular values, and do not count as neighbors of a
pixel, so only the order of sums may change.
"""

import contextvars
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

# Precision of matrix products: float32, or tensor cores with each factor split into a
# sum of two in TF32, with a relative error of 2^-22.
PRODUCTS: dict[str, jax.lax.PrecisionLike] = {
    "float32": jax.lax.Precision.HIGHEST,
    "3 x tf32": jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
}
# The one in use during tracing.
products = contextvars.ContextVar("products", default="float32")

# A matrix: tiles, one above the other.
Tiles = tuple[Array, ...]


def dot(a: Array, b: Array, *, contract: tuple[int, int] = (1, 0)) -> Array:
    dimensions = (contract[:1], contract[1:]), ((), ())
    precision = PRODUCTS[products.get()]
    return jax.lax.dot_general(a, b, dimensions, precision=precision)


dot_tn = functools.partial(dot, contract=(0, 0))
dot_nt = functools.partial(dot, contract=(1, 1))


def indices(size: int) -> tuple[Array, Array]:
    i, j = (jax.lax.broadcasted_iota(jnp.int32, (size, size), k) for k in (0, 1))
    return i, j


def total(a: Array) -> Array:
    return jnp.sum(jnp.sum(a, axis=0))


def times(x: Tiles, right: Array) -> Tiles:
    """``X B``."""
    return tuple(dot(tile, right) for tile in x)


def transpose_times(x: Tiles, y: Tiles) -> Array:
    """``X^T Y``."""
    pairs = zip(x, y, strict=True)
    return functools.reduce(jnp.add, [dot_tn(*pair) for pair in pairs])


def gram_of(x: Tiles) -> Array:
    """``X^T X``."""
    return transpose_times(x, x)


def squares_of(x: Tiles) -> Array:
    """Squared norms of the columns."""
    return functools.reduce(jnp.add, [jnp.sum(tile**2, axis=0) for tile in x])


def diagonal(a: Array) -> Array:
    i, j = indices(a.shape[0])
    return jnp.sum(jnp.where(i == j, a, 0), axis=0)


def largest_ones(values: Array, rank: int) -> Array:
    i, j = indices(values.shape[0])
    first, second = values[:, None], values[None, :]
    before = (first > second) | ((first == second) & (i < j))
    return (jnp.sum(before.astype(values.dtype), axis=0) < rank).astype(values.dtype)


def identity(a: Array) -> Array:
    i, j = indices(a.shape[0])
    return (i == j).astype(a.dtype)


def squared_norm(x: Tiles) -> Array:
    """The sum of squares."""
    return functools.reduce(jnp.add, [total(tile**2) for tile in x])
