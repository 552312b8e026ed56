"""Algorithm 1 for one matrix that a single program holds, in tiles, by whole products.

The mathematics of `splic_jax.fused`, apart from how a kernel is spelled. The method is
that of `splic_jax.tracked`, whose elementwise functions and constants serve here too;
sums are restated, since those of `splic_jax.small` take an array apart and a kernel
cannot, and so is what takes them.

A matrix is held as tiles, one above the other: one, or as many as images stand side by
side in it (channels that were concatenated). Tiles may be padded with zeros: rows and
columns of zeros stay zero through every product, carry no singular value, and count as
no pixel's neighbour, so that only the order of sums may change.
"""

import contextvars
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from splic_jax import completion, tracked
from splic_jax.config import SPLICConfig

_EPSILON = float(jnp.finfo(jnp.float32).eps)

# How matrices are multiplied: in float32, or on tensor cores, each factor as a sum of
# two in TF32, which leaves out 2^-22 of a product.
PRODUCTS: dict[str, jax.lax.PrecisionLike] = {
    "float32": jax.lax.Precision.HIGHEST,
    "3 x tf32": jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
}
# Of these, while something is traced.
products = contextvars.ContextVar("products", default="float32")

# A matrix, or the images of vectors: tiles, one above the other.
Tiles = tuple[Array, ...]


class Leading(NamedTuple):
    """`tracked.Leading` with its images as tiles."""

    vectors: Array
    images: Tiles


# How many times columns were mended, they, and their defect.
_Mending = tuple[Array | int, Leading, Array]


# Rounds done, the iterate, its basis, delta, and the relative change of the last step.
_State = tuple[Array | int, Tiles, Array, Array, Array]
# The iterate before a step, the one after it, and its basis.
_Step = tuple[Tiles, Tiles, Array]


def run(
    known: Tiles,
    restore: Callable[[Tiles], Tiles],
    vectors: Array,
    unit: Array,
    config: SPLICConfig,
    *,
    shape: tuple[int, int],
    rank: int,
    whole: bool,
) -> tuple[Tiles, Array, Array]:
    """The loop of `splic_jax.complete`, lines 1 to 16 of Algorithm 1.

    Args:
        known: the anchors, zeros elsewhere, in units of `unit`.
        restore: puts the anchors back, line 13.
        vectors: the right singular vectors of `known` to begin with, ``[n, p]``, the
            leading ones first.
        unit: see `completion._Problem`.
        config: the settings.
        shape: of a tile, without its padding.
        rank: r.
        whole: whether the vectors span all there is.

    Returns:
        The iterate, the rounds done, and the relative change of the last step.
    """
    differences = [
        differences_of(padded, side, config.tv_form)
        for padded, side in zip(known[0].shape, shape, strict=True)
    ]
    smallest = completion._smallest_delta(known[0].dtype)

    def unfinished(state: _State) -> Array:
        done, *_, changed = state
        return (done < config.max_rounds) & (changed > config.tolerance)

    def advance(state: _State) -> _State:
        done, x, vectors, delta, _ = state

        def step(_: Array, carry: _Step) -> _Step:
            x, vectors = carry[1:]
            now = follow(x, vectors, delta, rank, whole)
            descended = descend(now, delta, unit, differences, rank, config)
            return x, restore(descended), now.vectors

        old, x, vectors = jax.lax.fori_loop(
            0, config.inner_steps, step, (x, x, vectors)
        )
        delta = jnp.maximum(delta * config.delta_decay, smallest)
        return done + 1, x, vectors, delta, relative_change(old, x)

    largest = jnp.sqrt(jnp.max(squares_of(images_of(known, vectors))))
    delta = jnp.maximum(largest, smallest)
    start: _State = (0, known, vectors, delta, jnp.float32(jnp.inf))
    done, x, _, _, changed = jax.lax.while_loop(unfinished, advance, start)
    return x, jnp.asarray(done), changed


def _dot(a: Array, b: Array, *, contract: tuple[int, int] = (1, 0)) -> Array:
    dimensions = (contract[:1], contract[1:]), ((), ())
    precision = PRODUCTS[products.get()]
    return jax.lax.dot_general(a, b, dimensions, precision=precision)


_dot_tn = functools.partial(_dot, contract=(0, 0))
_dot_nt = functools.partial(_dot, contract=(1, 1))


def _indices(size: int) -> tuple[Array, Array]:
    i, j = (jax.lax.broadcasted_iota(jnp.int32, (size, size), k) for k in (0, 1))
    return i, j


def differences_of(padded: int, side: int, form: str) -> Array:
    """D, with which the gradient of the total variation is ``D X + X D^T``."""
    i, j = _indices(padded)
    neighbours = (j == i + 1) & (j < side)
    if form == "exact":
        neighbours |= (i == j + 1) & (i < side)
    neighbours = neighbours.astype(jnp.float32)
    return jnp.where(i == j, jnp.sum(neighbours, axis=1)[:, None], 0) - neighbours


def total(a: Array) -> Array:
    return jnp.sum(jnp.sum(a, axis=0))


def images_of(x: Tiles, vectors: Array) -> Tiles:
    return tuple(_dot(tile, vectors) for tile in x)


def _pulled(x: Tiles, images: Tiles) -> Array:
    """X^T times the images."""
    products = [_dot_tn(tile, of) for tile, of in zip(x, images, strict=True)]
    return functools.reduce(jnp.add, products)


def gram_of(images: Tiles) -> Array:
    return _pulled(images, images)


def squares_of(images: Tiles) -> Array:
    """Squared lengths of the columns."""
    return functools.reduce(jnp.add, [jnp.sum(tile**2, axis=0) for tile in images])


def _diagonal(a: Array) -> Array:
    i, j = _indices(a.shape[0])
    return jnp.sum(jnp.where(i == j, a, 0), axis=0)


def _largest_ones(values: Array, rank: int) -> Array:
    i, j = _indices(values.shape[0])
    first, second = values[:, None], values[None, :]
    before = (first > second) | ((first == second) & (i < j))
    return (jnp.sum(before.astype(values.dtype), axis=0) < rank).astype(values.dtype)


def follow(x: Tiles, vectors: Array, delta: Array, rank: int, whole: bool) -> Leading:
    """`tracked.track`; `whole` says that there is nothing outside of the span."""
    now = Leading(vectors, images_of(x, vectors))
    gram = gram_of(now.images)

    def correct(_: Array, carry: tuple[Leading, Array]) -> tuple[Leading, Array]:
        now, gram = carry
        now, gram = _turn_fully(now, gram, rank)
        if not whole:
            now = _leave_span(x, now, gram)
        return now, gram_of(now.images)

    wanted = _corrections(gram, delta, rank)
    now, gram = jax.lax.fori_loop(0, wanted, correct, (now, gram))
    return _settle(x, now, gram, rank, whole)


def _corrections(gram: Array, delta: Array, rank: int) -> Array:
    values = _diagonal(gram)
    kept = _largest_ones(values, rank)
    last = jnp.min(jnp.where(kept > 0, values, jnp.inf))
    squares = tracked._jacobi_angles(gram, values, kept) ** 2
    turn = jnp.max(jnp.sum(squares, axis=0) * kept)
    ratio = delta**2 / jnp.where(last > 0, last, 1)
    many = (ratio > tracked._DELTA_OF_MANY**2) | (turn > tracked._ANGLE_OF_MANY**2)
    some = (ratio > tracked._DELTA_OF_SOME**2) | (turn > tracked._ANGLE_OF_SOME**2)
    # Triton takes untyped numbers for those of the type of the condition.
    counts = (tracked._NONE, tracked._SOME, tracked._MANY)
    none, some_of_them, many_of_them = map(jnp.int32, counts)
    wanted = jnp.where(many, many_of_them, jnp.where(some, some_of_them, none))
    return jnp.where(last > 0, wanted, none)


def _angles(gram: Array, rank: int) -> Array:
    values = _diagonal(gram)
    tangent = tracked._jacobi_angles(gram, values, _largest_ones(values, rank))
    return tracked._limited(tangent, total(tangent**2))


def _rotate(now: Leading, rotation: Array) -> Leading:
    return Leading(_dot(now.vectors, rotation), images_of(now.images, rotation))


def _rotation(t: Array) -> Array:
    t2 = _dot(t, t)
    root = _identity(t) + t2 / 2 + _dot(t2, t2) * 0.375
    return root + _dot(t, root)


def _turn_fully(now: Leading, gram: Array, rank: int) -> tuple[Leading, Array]:
    rotation = _rotation(_angles(gram, rank))
    for _ in range(2):
        newton = 1.5 * _identity(gram) - _dot_tn(rotation, rotation) / 2
        rotation = _dot(rotation, newton)
    return _rotate(now, rotation), _dot_tn(rotation, _dot(gram, rotation))


def _leave_span(x: Tiles, now: Leading, gram: Array) -> Leading:
    squares = _diagonal(gram)
    step = tracked._first_order(_outside(x, now, gram), _safe_inverse(squares))
    now, defect = _mended(_move(x, now, step, squares))
    return _orthonormal(now, defect)


def _mended(now: Leading) -> tuple[Leading, Array]:
    def far(carry: _Mending) -> Array:
        done, _, defect = carry
        square = total(defect**2) / len(defect)
        few = done < tracked._MOST_MENDING
        return few & (square > tracked._LARGEST_DEFECT**2)

    def mend(carry: _Mending) -> _Mending:
        done, now, defect = carry
        return done + 1, *_mend(now, defect, products.get())

    start: _Mending = (jnp.int32(0), now, _defect(now))
    _, now, defect = jax.lax.while_loop(far, mend, start)
    return now, defect


@functools.partial(jax.jit, static_argnums=2)
def _mend(now: Leading, defect: Array, spelled: str) -> tuple[Leading, Array]:
    del spelled  # traced anew for each of `PRODUCTS`
    now = _orthonormal(now, defect)
    return now, _defect(now)


def _orthonormal(now: Leading, defect: Array) -> Leading:
    square = _dot(defect, defect)
    root = _identity(defect) + defect / 2 + square * 0.375
    return _rotate(now, root + _dot(square, defect) * 0.3125)


def _outside(x: Tiles, now: Leading, gram: Array) -> Array:
    return _pulled(x, now.images) - _dot(now.vectors, gram)


def _move(x: Tiles, now: Leading, step: Array, squares: Array) -> Leading:
    images = images_of(x, step)
    length, stretch = jnp.sum(step**2, axis=0), squares_of(images)
    rest = stretch * _safe_inverse(squares) / jnp.where(length > 0, length, 1)
    scale = 1 / jnp.maximum(1 - rest, 0.3)
    norm = jnp.sqrt(jnp.sum(length * scale**2))
    scale *= jnp.minimum(1, tracked._LARGEST_ROTATION / jnp.maximum(norm, 1e-9))
    return Leading(
        tracked._moved(now.vectors, step, scale),
        tuple(
            tracked._moved(tile, image, scale)
            for tile, image in zip(now.images, images, strict=True)
        ),
    )


def _settle(x: Tiles, now: Leading, gram: Array, rank: int, whole: bool) -> Leading:
    rotation = _rotation(_angles(gram, rank))
    turned = _rotate(now, rotation)
    if not whole:
        squares = squares_of(turned.images)
        step = _dot(_outside(x, now, gram), rotation) * _safe_inverse(squares)
        turned = _move(x, turned, step, squares)
    turned, defect = _mended(turned)
    gram = gram_of(turned.images)
    t = _angles(tracked._of_orthonormal(gram, defect, _diagonal(gram)), rank)
    both = t + defect / 2
    small = _identity(t) + both + _dot(both, both) / 2 + _dot(defect, defect) / 4
    return _rotate(turned, small)


def _identity(a: Array) -> Array:
    i, j = _indices(a.shape[0])
    return (i == j).astype(a.dtype)


def _defect(now: Leading) -> Array:
    gram = _dot_tn(now.vectors, now.vectors)
    # Columns that only fill up have no length to be missed.
    return jnp.where(gram > 0, _identity(gram), 0) - gram


def _safe_inverse(squares: Array) -> Array:
    least = tracked._ROUNDINGS * _EPSILON * jnp.max(squares)
    return squares / jnp.where(least > 0, squares**2 + least**2, 1)


def descend(
    now: Leading,
    delta: Array,
    unit: Array,
    differences: list[Array],
    rank: int,
    config: SPLICConfig,
) -> Tiles:
    """Lines 5 to 11 of Algorithm 1; the total variation's part by factors."""
    squares = squares_of(now.images)
    kept = _largest_ones(squares, rank)
    delta = jnp.maximum(delta, _EPSILON * jnp.sqrt(jnp.max(squares)))
    relative = config.step_scaling == "relative"
    gain = config.step_size if relative else config.step_size / (delta * unit) ** 2
    weights = kept * (1 - gain * jnp.exp(-squares / delta**2 / 2))
    parts = [tracked._times(tile, kept, weights) for tile in now.images]
    if not config.tv_weight:
        return tuple(_dot_nt(descended, now.vectors) for _, descended in parts)
    rows, columns = differences
    tv_step = config.step_size * config.tv_weight
    across = tv_step * _dot(columns, now.vectors)
    return tuple(
        _dot_nt(descended - tv_step * _dot(rows, cut), now.vectors)
        - _dot_nt(cut, across)
        for cut, descended in parts
    )


def relative_change(x: Tiles, new: Tiles) -> Array:
    pairs = list(zip(x, new, strict=True))
    moved = functools.reduce(jnp.add, [total((b - a) ** 2) for a, b in pairs])
    size = functools.reduce(jnp.add, [total(a**2) for a, _ in pairs])
    return jnp.sqrt(jnp.where(size > 0, moved / jnp.where(size > 0, size, 1), moved))
