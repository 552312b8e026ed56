"""The spectral half of a SPLIC step without a singular value decomposition.

From one step to the next the matrix moves little, so its leading right singular vectors
do too. `track` carries an orthonormal basis Q of up to 2r of them along, by matrix
products alone. One correction of Q takes two parts, each right to second order in the
error:

- within the span, S = Q^T X^T X Q is made diagonal by rotating all pairs of columns at
  once by their Jacobi angles (Golub and Van Loan, section 8.5);
- out of the span, column j gets D_j = (I - Q Q^T) X^T X q_j / (lambda_j - mu_j), the
  first-order perturbation of an eigenvector, where mu_j, the Rayleigh quotient of D_j,
  stands for the eigenvalues that are left out (a step of Davidson's method). D is
  orthogonal to Q, so however far the singular values lie apart nothing is amplified,
  as it is in a power iteration.

The columns past the first r are there so that what is left out is far below sigma_r:
the rank cut is discontinuous, and an error there would grow. docs/performance.md
measures it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from splic_jax import lanes, spectral
from splic_jax.lanes import kernel, product, product_nt, product_tn

# Below, the whole decomposition is as cheap.
SMALLEST_SIDE = 16

# Corrections in a step: many while the smoothed rank still shrinks the singular value
# number r, that is while delta is of its size, and few when only its tail is cut off.
_MANY, _SOME, _FEW = 3, 2, 1
_DELTA_OF_MANY, _DELTA_OF_SOME = 3.5, 0.5
# Where columns have to turn by more than this, in radians, whatever delta is.
_ANGLE_OF_MANY, _ANGLE_OF_SOME = 0.3, 0.1

# A rotation of more than this (Frobenius norm over sqrt 2) is made in several steps.
_LARGEST_ROTATION = 0.7
_LARGEST_TAIL_ANGLE = 0.2

# Of the series in the derivative.
_SERIES_TERMS = 3


class Leading(NamedTuple):
    """The leading right singular vectors of a matrix, approximately.

    Attributes:
        vectors: ``[n, p, *lanes]``, orthonormal.
        images: X times them, ``[m, p, *lanes]``; orthogonal, of the length of the
            singular values.
    """

    vectors: Array
    images: Array


def basis_size(rank: int, smaller_side: int) -> int:
    """Number of vectors to track in order to cut to `rank`."""
    more = min(rank, (smaller_side - rank) // 2)
    return min(smaller_side, max(rank + more, SMALLEST_SIDE))


def decompose(x: Array, size: int) -> tuple[Array, Array]:
    """The leading right singular vectors by an eigendecomposition, to start from.

    Args:
        x: ``[m, n, *lanes]`` with entries of about 1.
        size: number of vectors.

    Returns:
        The vectors ``[n, size, *lanes]``, n being the smaller side, and the largest
        singular value ``[*lanes]``.
    """
    if x.shape[0] < x.shape[1]:
        x = lanes.transpose(x)
    fixed = jax.lax.stop_gradient(x)
    gram = product_tn(fixed, fixed)
    if x.ndim == 2:
        vectors = jnp.linalg.eigh(gram)[1][:, ::-1]
    else:
        # One after another: LAPACK's batches share their threads with the programs on
        # other CPU devices, and wait for one another for ever.
        vectors = jax.lax.map(
            lambda one: jnp.linalg.eigh(one)[1], jnp.moveaxis(gram, -1, 0)
        )
        vectors = jnp.moveaxis(vectors[..., ::-1], 0, -1)
    # Differentiable in x, as the vectors are not: u_1^T dX v_1.
    square = lanes.total(product(x, vectors[:, :1])[:, 0] ** 2)
    largest = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return vectors[:, :size], largest


def track(x: Array, vectors: Array, delta: Array, rank: int) -> Leading:
    """The leading singular vectors of `x`, from those of a matrix near it.

    Args:
        x: ``[m, n, *lanes]``, m >= n, with entries of about 1.
        vectors: ``[n, p, *lanes]``, orthonormal; p of `basis_size`.
        delta: width of the smoothed rank ``[*lanes]``, which says how much the first
            r singular values are moving.
        rank: r, which column the space has to be exact for.

    Returns:
        Vectors and images. Neither orthonormality nor accuracy depends on how far
        apart the singular values lie; they do suffer where sigma_{p+1} is near
        sigma_r.
    """
    now = Leading(vectors, product(x, vectors))
    gram = product_tn(now.images, now.images)
    wanted = _corrections(gram, delta, rank)

    def correct(carry):
        done, now = carry
        rotated, gram = _turn_fully(now, rank)
        return done + 1, lanes.choose(wanted > done, _leave_span(x, rotated, gram), now)

    _, now = jax.lax.while_loop(
        lambda carry: jnp.any(wanted > carry[0]), correct, (0, now)
    )
    gram = product_tn(now.images, now.images)
    angles = _angles(gram, rank)
    return _rotate(now, _small_rotation(angles, product(angles, angles)))


def _corrections(gram: Array, delta: Array, rank: int) -> Array:
    """How many corrections each lane wants; none where the matrix is 0."""
    values = lanes.diagonal(gram)
    kept = lanes.largest_ones(values, rank)
    last = -lanes.largest(jnp.where(kept > 0, -values, -jnp.inf))
    squares = _jacobi_angles(gram, values, kept) ** 2
    turn = lanes.largest(lanes.total(squares) * kept)
    ratio = delta**2 / jnp.where(last > 0, last, 1)
    many = (ratio > _DELTA_OF_MANY**2) | (turn > _ANGLE_OF_MANY**2)
    some = (ratio > _DELTA_OF_SOME**2) | (turn > _ANGLE_OF_SOME**2)
    wanted = jnp.where(many, _MANY, jnp.where(some, _SOME, _FEW))
    return jnp.where(last > 0, wanted, 0)


@kernel
def _jacobi_angles(gram: Array, values: Array, kept: Array) -> Array:
    """The tangents that annihilate each pair's entry of `gram`; antisymmetric.

    Two columns that will both be cut off need not be told apart: they turn little.
    """
    gap, twice = values - values[:, None], 2 * gram
    distance = jnp.abs(gap)
    tangent = twice * gap
    tangent /= distance * (distance + jnp.sqrt(gap**2 + twice**2)) + 1e-30
    limit = jnp.minimum(_LARGEST_TAIL_ANGLE + kept + kept[:, None], 1)
    return jnp.clip(tangent, -limit, limit)


def _angles(gram: Array, rank: int) -> Array:
    values = lanes.diagonal(gram)
    tangent = _jacobi_angles(gram, values, lanes.largest_ones(values, rank))
    return _limited(tangent, lanes.total(lanes.total(tangent**2)))


@kernel
def _limited(tangent: Array, square: Array) -> Array:
    norm = jnp.sqrt(square / 2)
    return tangent * jnp.minimum(1, _LARGEST_ROTATION / jnp.maximum(norm, 1e-9))


@kernel
def _small_rotation(t: Array, t2: Array) -> Array:
    """(I + T)(I - T^2)^{-1/2}, orthogonal for antisymmetric T, to second order."""
    return lanes.identity(t) + t + t2 / 2


@kernel
def _plus_identity(t: Array) -> Array:
    return lanes.identity(t) + t


@kernel
def _inverse_root(t2: Array, t4: Array) -> Array:
    return lanes.identity(t2) + t2 / 2 + 0.375 * t4


@kernel
def _newton(gram: Array) -> Array:
    """One Newton-Schulz step towards the inverse square root of a matrix near I."""
    return 1.5 * lanes.identity(gram) - gram / 2


def _rotate(now: Leading, rotation: Array) -> Leading:
    return Leading(product(now.vectors, rotation), product(now.images, rotation))


def _turn_fully(now: Leading, rank: int) -> tuple[Leading, Array]:
    """Rotates within the span; returns also the new Q^T X^T X Q."""
    gram = product_tn(now.images, now.images)
    t = _angles(gram, rank)
    t2 = product(t, t)
    rotation = product(_plus_identity(t), _inverse_root(t2, product(t2, t2)))
    rotation = product(rotation, _newton(product_tn(rotation, rotation)))
    gram = product_tn(rotation, product(gram, rotation))
    return _rotate(now, rotation), gram


def _leave_span(x: Array, now: Leading, gram: Array) -> Leading:
    """Corrects the vectors by what lies outside of their span."""
    if now.vectors.shape[0] == now.vectors.shape[1]:
        return now
    pulled = product_tn(x, now.images)
    inverse = _safe_inverse(lanes.diagonal(gram))
    step = _first_order(pulled, product(now.vectors, gram), inverse)
    now = _add_scaled(now, step, product(x, step), inverse)
    defect = _defect(product_tn(now.vectors, now.vectors))
    square = product(defect, defect)
    cube = product(square, defect)
    return _rotate(now, _inverse_root(defect, square) + 0.3125 * cube)


@kernel
def _defect(gram: Array) -> Array:
    return lanes.identity(gram) - gram


def _safe_inverse(squares: Array) -> Array:
    """1 / sigma^2, 0 where that is a rounding error of the largest."""
    least = jnp.finfo(squares.dtype).eps * lanes.largest(squares)
    return jnp.where(squares > least, 1 / jnp.where(squares > least, squares, 1), 0)


@kernel
def _first_order(pulled: Array, inside: Array, inverse: Array) -> Array:
    return (pulled - inside) * inverse


def _add_scaled(
    now: Leading, step: Array, step_image: Array, inverse: Array
) -> Leading:
    length, stretch = lanes.total(step**2), lanes.total(step_image**2)
    rest = stretch * inverse / jnp.where(length > 0, length, 1)
    scale = 1 / jnp.maximum(1 - rest, 0.3)
    norm = jnp.sqrt(lanes.total(length * scale**2))
    scale = scale * jnp.minimum(1, _LARGEST_ROTATION / jnp.maximum(norm, 1e-9))
    return _moved(now, step, step_image, scale)


@kernel
def _moved(now: Leading, step: Array, step_image: Array, scale: Array) -> Leading:
    return Leading(now.vectors + step * scale, now.images + step_image * scale)


def _floor(delta: Array, squares: Array) -> Array:
    # Below this delta could only act on rounding errors.
    epsilon = jnp.finfo(squares.dtype).eps
    return jnp.maximum(delta, epsilon * jnp.sqrt(lanes.largest(squares)))


def _gain(delta: Array, unit: Array | None, step_size: float) -> Array:
    relative = unit is None
    return spectral.gain(delta if relative else delta * unit, step_size, relative)


def _weights(
    now: Leading, delta: Array, unit: Array | None, rank: int, step_size: float
) -> tuple[Array, Array, Array]:
    """Squares of the singular values, and their weights in the cut and the descent."""
    squares = lanes.total(now.images**2)
    kept = lanes.largest_ones(squares, rank)
    delta = _floor(delta, squares)
    shrink = _gain(delta, unit, step_size) * jnp.exp(-squares / delta**2 / 2)
    return squares, kept, kept * (1 - shrink)


@kernel
def _times(images: Array, kept: Array, weights: Array) -> tuple[Array, Array]:
    return kept * images, weights * images


def cut_and_descend(
    x: Array,
    vectors: Array,
    delta: Array,
    *,
    rank: int,
    step_size: float,
    unit: Array | None,
) -> tuple[Array, Array, Array]:
    """`splic_jax.spectral.cut_and_descend` by `track`.

    Args:
        x: ``[m, n, *lanes]`` with entries of about 1.
        vectors: those of the step before.
        delta: width of the smoothed rank ``[*lanes]``, in the unit of x.
        rank: r.
        step_size: mu.
        unit: None for the step relative to delta^2; for the step as printed, the value
            in the caller's unit of an entry of 1 ``[*lanes]``.

    Returns:
        The cut matrix, the descended one, and the vectors for the next step.
    """
    if x.shape[0] < x.shape[1]:
        cut, descended, vectors = cut_and_descend(
            lanes.transpose(x),
            vectors,
            delta,
            rank=rank,
            step_size=step_size,
            unit=unit,
        )
        return lanes.transpose(cut), lanes.transpose(descended), vectors
    return _cut_and_descend(x, vectors, delta, unit, rank, step_size)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def _cut_and_descend(x, vectors, delta, unit, rank, step_size):
    now = track(x, vectors, delta, rank)
    _, kept, weights = _weights(now, delta, unit, rank, step_size)
    cut, descended = _times(now.images, kept, weights)
    cut = product_nt(cut, now.vectors)
    descended = jax.lax.cond(
        jnp.any(weights != kept),
        lambda: product_nt(descended, now.vectors),
        lambda: cut,
    )
    return cut, descended, now.vectors


@_cut_and_descend.defjvp
def _cut_and_descend_jvp(rank, step_size, primals, tangents):
    """The derivative in x and delta; the vectors only say where to start from.

    As in `splic_jax.spectral`, with the derivative of the space as a whole in two
    parts: towards the other columns of the basis by divided differences, and out of it
    by the series for (lambda_j - X^T X)^{-1}, which converges as
    (sigma_{p+1} / sigma_r)^2 does.
    """
    x, vectors, delta, unit = primals
    dx, _, ddelta, _ = tangents
    cut, descended, vectors = _cut_and_descend(x, vectors, delta, unit, rank, step_size)
    now = Leading(vectors, product(x, vectors))
    (squares, kept, weights), (_, _, dweights) = jax.jvp(
        lambda d: _weights(now, d, unit, rank, step_size), (delta,), (ddelta,)
    )
    values = jnp.sqrt(squares)
    width = _floor(delta, squares)
    of_cut, of_descended = spectral.divided_differences(
        values, kept, weights, width, _gain(width, unit, step_size)
    )

    def left(form, moving, fixed):
        return lanes.linear(form, fixed, moving, left=True)

    def right(form, fixed, moving):
        return lanes.linear(form, fixed, moving, left=False)

    dimages = left(product, dx, now.vectors)
    half = left(product_tn, dimages, now.images)
    dgram = half + lanes.transpose(half)
    inverse = kept * _safe_inverse(squares)

    def outside(v):
        inside = right(product_tn, now.vectors, v)
        return v - right(product, now.vectors, inside)

    pulled = left(product_tn, dx, now.images) + right(product_tn, x, dimages)
    first = leaving = outside(pulled) * inverse
    for _ in range(_SERIES_TERMS):
        pulled = right(product_tn, x, right(product, x, leaving))
        leaving = first + outside(pulled) * inverse
    leaving_images = right(product, x, leaving)

    def tangent(weights, dweights, differences):
        turned = dimages * weights + now.images * dweights
        turned += right(product, now.images, differences * dgram)
        turned += leaving_images * weights
        moved = right(product_nt, now.images * weights, leaving)
        return left(product_nt, turned, now.vectors) + moved

    dcut = tangent(kept, jnp.zeros_like(kept), of_cut)
    ddescended = tangent(weights, dweights, of_descended)
    return (cut, descended, vectors), (dcut, ddescended, jnp.zeros_like(vectors))
