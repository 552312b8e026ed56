"""The tracked solver: follows singular vectors from step to step by matrix products.

The iterate changes little in a step, and so do its leading right singular vectors.
`track` updates an orthonormal basis Q of them (`basis_size`) by matrix products alone.
A correction of Q has two parts, each accurate to second order in the error:

- within the span, rotating all pairs of columns at once by their Jacobi angles
  diagonalizes S = Q^T X^T X Q (Golub and Van Loan, section 8.5);
- out of the span, column j gets D_j = (I - Q Q^T) X^T X q_j / (lambda_j - mu_j), the
  first-order perturbation of an eigenvector, where mu_j, the Rayleigh quotient of D_j,
  approximates the eigenvalues outside the span (a step of Davidson's method). D is
  orthogonal to Q, so nothing is amplified however far apart the singular values lie,
  unlike in a power iteration.

Where the columns turn far, full corrections do one part after the other. The last
correction, most often the only one, does both at once at half the cost.

The columns beyond the first r keep what is left out far below sigma_r: the rank cut is
discontinuous, and an error there would grow (measured in docs/performance.md).

Functions of one matrix, for use under `jax.vmap`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from splic_jax.config import SPLICConfig
from splic_jax.layout import small
from splic_jax.layout.small import dot, dot_tn, kernel, product, product_nt, product_tn
from splic_jax.solvers import arrays, spectrum
from splic_jax.solvers.algorithm1 import VECTORS, ArrayProblem

# Below, the full decomposition is as cheap.
SMALLEST_SIDE = 16

# Full corrections before the last one, by delta / sigma_r: many while the smoothed rank
# shrinks sigma_r like the small singular values, some while it still shrinks it, none
# once only the tail is cut off.
_MANY, _SOME, _NONE = 2, 1, 0
_DELTA_OF_MANY, _DELTA_OF_SOME = 8, 1.2
# The same where columns turn by more than these angles, in radians, whatever delta is.
_ANGLE_OF_MANY, _ANGLE_OF_SOME = 0.3, 0.1

# The largest rotation in a correction (Frobenius norm over sqrt 2).
LARGEST_ROTATION = 0.7
_LARGEST_TAIL_ANGLE = 0.2

# An accelerator runs the whole batch together, and a data-dependent loop waits for the
# host in each pass: there these numbers are fixed.
_FIXED_CORRECTIONS = 1
_FIXED_MENDING = 1

# Columns farther from orthonormal than this (Frobenius norm of I - Q^T Q over the root
# of their number) are first re-orthonormalized, in at most this many steps. Happens
# with ties, or columns of rounding errors.
LARGEST_DEFECT = 0.025
MOST_MENDING = 8

# A squared singular value below this many rounding errors of the largest is noise.
_ROUNDINGS = 8

# Terms of the series in the derivative.
_SERIES_TERMS = 3


def supports(config: SPLICConfig, shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether matrices of this shape are tracked rather than decomposed.

    Needs a rank cut below full rank, as else the smallest singular values matter as
    much as the largest; sides of at least 16, below which an SVD is cheap; and float32,
    the accuracy of tracking.
    """
    return (
        config.solver != "exact"
        and config.rank_cut
        and min(shape) >= SMALLEST_SIDE
        and config.rank_of(shape) < min(shape)
        and dtype == jnp.float32
    )


class Tracked(arrays.OnArrays):
    """A `Solver` of one matrix; its basis is the leading singular vectors."""

    def init(self, given: arrays.Given) -> tuple[ArrayProblem, Array, Array]:
        """The problem, the first singular vectors, and the largest singular value."""
        problem = arrays.problem_of(given, self.config)
        anchors = problem.anchors
        rank = self.config.rank_of(anchors.shape)
        # A power of two near the largest singular value: fourth powers neither overflow
        # nor underflow, and dividing by it rounds nothing.
        bound = jnp.sqrt(small.total(small.total(anchors**2)))
        unit = jax.lax.stop_gradient(power_of_two(bound))
        anchors = anchors / unit
        vectors, largest = decompose(anchors, basis_size(rank, min(anchors.shape)))
        return problem._replace(anchors=anchors, unit=unit), vectors, largest

    def step(
        self, x: Array, basis: Array, delta: Array, unit: Array
    ) -> tuple[Array, Array]:
        """Lines 4 to 11 of Algorithm 1."""
        config = self.config
        cut, descended, vectors = cut_and_descend(
            x,
            basis,
            delta,
            rank=config.rank_of(x.shape),
            step_size=config.step_size,
            unit=None if config.step_scaling == "relative" else unit,
        )
        return arrays.smooth(cut, descended, config, self.blocks), vectors


def power_of_two(bound: Array) -> Array:
    """The next power of two above `bound`; 1 for 0."""
    return jnp.ldexp(jnp.ones_like(bound), jnp.frexp(bound)[1])


class Leading(NamedTuple):
    """The approximate leading right singular vectors V of a matrix X.

    Attributes:
        vectors: V, ``[n, p]``, orthonormal columns.
        xv: X V, ``[m, p]``, orthogonal columns whose norms are the singular values.
    """

    vectors: Array
    xv: Array


def basis_size(rank: int, smaller_side: int) -> int:
    """Number of vectors to track in order to cut to `rank`."""
    more = min(rank, (smaller_side - rank) // 2)
    return min(smaller_side, max(rank + more, SMALLEST_SIDE))


def decompose(x: Array, size: int) -> tuple[Array, Array]:
    """The first leading right singular vectors, by an eigendecomposition.

    Args:
        x: ``[m, n]`` with entries of about 1.
        size: number of vectors.

    Returns:
        The vectors ``[n, size]``, n being the smaller side, and the largest singular
        value.
    """
    if x.shape[0] < x.shape[1]:
        x = x.T
    fixed = jax.lax.stop_gradient(x)
    vectors = eigenvectors(product_tn(fixed, fixed))
    # Differentiable in x, as the vectors are not: u_1^T dX v_1.
    square = small.total(product(x, vectors[:, :1])[:, 0] ** 2)
    largest = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return vectors[:, :size], largest


def eigenvectors(gram: Array) -> Array:
    """Eigenvectors of a symmetric matrix, largest eigenvalues first."""

    def one(gram: Array) -> Array:
        vectors: Array = jnp.linalg.eigh(gram)[1]
        return vectors[:, ::-1]

    if jax.default_backend() == "cpu":
        # One at a time: LAPACK's batches share threads with programs on other CPU
        # devices, and deadlock.
        one = jax.custom_batching.sequential_vmap(one)
    return one(gram)


def track(x: Array, vectors: Array, delta: Array, rank: int) -> Leading:
    """The leading singular vectors of `x`, from those of a matrix near it.

    Args:
        x: ``[m, n]``, m >= n, with entries of about 1.
        vectors: ``[n, p]``, orthonormal; p of `basis_size`.
        delta: width of the smoothed rank, which tells how much the first r singular
            values are changing.
        rank: r, the number of columns that must be accurate.

    Returns:
        V and X V. Orthonormality and accuracy do not depend on how far apart the
        singular values lie, but suffer where sigma_{p+1} is near sigma_r.
    """
    leading = Leading(vectors, product(x, vectors))
    gram = product_tn(leading.xv, leading.xv)

    def correct(carry: _Correction) -> _Correction:
        done, leading, gram, angles = carry
        leading = _leave_span(x, *_turn_fully(leading, gram, angles.t))
        gram = product_tn(leading.xv, leading.xv)
        return done + 1, leading, gram, angles_of(gram, rank)

    carry: _Correction = (0, leading, gram, angles_of(gram, rank))
    if jax.default_backend() == "cpu":
        wanted = corrections(carry[3].last, carry[3].turn, delta)
        carry = jax.lax.while_loop(lambda carry: carry[0] < wanted, correct, carry)
    else:
        for _ in range(_FIXED_CORRECTIONS):
            carry = correct(carry)
    _, leading, gram, angles = carry
    return _settle(x, leading, gram, angles.t, rank)


class _Angles(NamedTuple):
    t: Array  # angles between all pairs of columns, limited; antisymmetric
    turn: Array  # squared angle of that of the first r columns that turns farthest
    last: Array  # sigma_r^2, as the diagonal estimates it


# The number of corrections done, and the input of the next one.
_Correction = tuple[Array | int, Leading, Array, _Angles]


def angles_of(gram: Array, rank: int) -> _Angles:
    values = small.diagonal(gram)
    kept = small.largest_ones(values, rank)
    tangent = jacobi_angles(gram, values, kept)
    squares = small.total(tangent**2)
    last = -small.largest(jnp.where(kept > 0, -values, -jnp.inf))
    t = limited(tangent, small.total(squares))
    return _Angles(t, small.largest(squares * kept), last)


def corrections(last: Array, turn: Array, delta: Array) -> Array:
    """The number of full corrections that a matrix needs; none if sigma_r is 0.

    Args:
        last: sigma_r^2, or an estimate.
        turn: squared angle of that of the first r columns that turns farthest.
        delta: width of the smoothed rank.
    """
    ratio = delta**2 / jnp.where(last > 0, last, 1)
    many = (ratio > _DELTA_OF_MANY**2) | (turn > _ANGLE_OF_MANY**2)
    some = (ratio > _DELTA_OF_SOME**2) | (turn > _ANGLE_OF_SOME**2)
    # Triton would give untyped numbers the type of the condition.
    none_of_them, some_of_them, many_of_them = map(jnp.int32, (_NONE, _SOME, _MANY))
    wanted = jnp.where(many, many_of_them, jnp.where(some, some_of_them, none_of_them))
    return jnp.where(last > 0, wanted, none_of_them)


@kernel
def jacobi_angles(gram: Array, values: Array, kept: Array) -> Array:
    """Tangents of the angles that annihilate each entry of `gram`; antisymmetric.

    Limited to a small angle between two columns that are both cut off.
    """
    gap, twice = values - values[:, None], 2 * gram
    distance = jnp.abs(gap)
    tangent = twice * gap
    tangent /= distance * (distance + jnp.sqrt(gap**2 + twice**2)) + 1e-30
    limit = jnp.minimum(_LARGEST_TAIL_ANGLE + kept + kept[:, None], 1)
    return jnp.clip(tangent, -limit, limit)


@kernel
def limited(tangent: Array, square: Array) -> Array:
    norm = jnp.sqrt(square / 2)
    return tangent * jnp.minimum(1, LARGEST_ROTATION / jnp.maximum(norm, 1e-9))


@kernel
def _inverse_root(t2: Array) -> Array:
    """``(I - T2)^{-1/2}`` for a small T2, to second order."""
    return jnp.eye(len(t2), dtype=t2.dtype) + t2 / 2 + 0.375 * dot(t2, t2)


def _rotation(t: Array) -> Array:
    """``(I + T)(I - T^2)^{-1/2}``, nearly orthogonal for antisymmetric T."""
    return _and_times(t, _inverse_root(product(t, t)))


@kernel
def _and_times(t: Array, root: Array) -> Array:
    return root + dot(t, root)


@kernel
def _newton(rotation: Array) -> Array:
    """The factor of a Newton-Schulz step towards an orthogonal matrix."""
    return (
        1.5 * jnp.eye(len(rotation), dtype=rotation.dtype)
        - dot_tn(rotation, rotation) / 2
    )


def _rotate(leading: Leading, rotation: Array) -> Leading:
    return Leading(product(leading.vectors, rotation), product(leading.xv, rotation))


def _turn_fully(leading: Leading, gram: Array, t: Array) -> tuple[Leading, Array]:
    """Rotates within the span; also returns the new Gram matrix."""
    rotation = _rotation(t)
    for _ in range(2):
        rotation = product(rotation, _newton(rotation))
    gram = product_tn(rotation, product(gram, rotation))
    return _rotate(leading, rotation), gram


def _leave_span(x: Array, leading: Leading, gram: Array) -> Leading:
    """Corrects the vectors by their error outside the span."""
    if leading.vectors.shape[0] == leading.vectors.shape[1]:
        return leading
    squares = small.diagonal(gram)
    step = first_order(_outside(x, leading, gram), _safe_inverse(squares))
    leading, defect = _mended(_move(leading, Leading(step, product(x, step)), squares))
    return _orthonormal(leading, defect)


# The number of re-orthonormalizations, the vectors, and their defect.
_Mending = tuple[Array | int, Leading, Array]


def _mended(leading: Leading) -> tuple[Leading, Array]:
    """Re-orthonormalizes columns that are far from it; returns the defect too."""

    def far(carry: _Mending) -> Array:
        done, _, defect = carry
        square = small.total(small.total(defect**2)) / len(defect)
        return (square > LARGEST_DEFECT**2) & (done < MOST_MENDING)

    def mend(carry: _Mending) -> _Mending:
        done, leading, defect = carry
        return done + 1, *_mend(leading, defect)

    carry: _Mending = (0, leading, _defect(leading.vectors))
    if jax.default_backend() == "cpu":
        carry = jax.lax.while_loop(far, mend, carry)
    else:
        for _ in range(_FIXED_MENDING):
            carry = mend(carry)
    return carry[1:]


@jax.jit
def _mend(leading: Leading, defect: Array) -> tuple[Leading, Array]:
    leading = _orthonormal(leading, defect)
    return leading, _defect(leading.vectors)


def _orthonormal(leading: Leading, defect: Array) -> Leading:
    return _rotate(leading, _inverse_root_to_third(defect, product(defect, defect)))


def _outside(x: Array, leading: Leading, gram: Array) -> Array:
    """``(I - V V^T) X^T X V``."""
    return _rest(product_tn(x, leading.xv), leading.vectors, gram)


@kernel
def _rest(pulled: Array, vectors: Array, gram: Array) -> Array:
    return pulled - dot(vectors, gram)


@kernel
def first_order(outside: Array, inverse: Array) -> Array:
    return outside * inverse


def _move(leading: Leading, step: Leading, squares: Array) -> Leading:
    """Adds a first-order step, each column scaled by its Rayleigh quotient."""
    length, stretch = small.total(step.vectors**2), small.total(step.xv**2)
    rest = stretch * _safe_inverse(squares) / jnp.where(length > 0, length, 1)
    scale = 1 / jnp.maximum(1 - rest, 0.3)
    norm = jnp.sqrt(small.total(length * scale**2))
    scale = scale * jnp.minimum(1, LARGEST_ROTATION / jnp.maximum(norm, 1e-9))
    return Leading(*(moved(*of, scale) for of in zip(leading, step, strict=True)))


@kernel
def moved(leading: Array, step: Array, scale: Array) -> Array:
    return leading + step * scale


@kernel
def _defect(vectors: Array) -> Array:
    return jnp.eye(vectors.shape[1], dtype=vectors.dtype) - dot_tn(vectors, vectors)


@kernel
def _inverse_root_to_third(defect: Array, square: Array) -> Array:
    root = jnp.eye(len(defect), dtype=defect.dtype) + defect / 2 + 0.375 * square
    return root + 0.3125 * dot(square, defect)


def _safe_inverse(squares: Array) -> Array:
    """1 / sigma^2, damped towards 0 where sigma^2 is near a rounding error."""
    return damped_inverse(squares, small.largest(squares))


def damped_inverse(squares: Array, largest: Array) -> Array:
    """`_safe_inverse`, given the largest of the squares."""
    least = _ROUNDINGS * float(jnp.finfo(squares.dtype).eps) * largest
    return squares / jnp.where(least > 0, squares**2 + least**2, 1)


def _settle(x: Array, leading: Leading, gram: Array, t: Array, rank: int) -> Leading:
    """The last correction, within and out of the span at once, to second order."""
    rotation = _rotation(t)
    turned = _rotate(leading, rotation)
    if leading.vectors.shape[0] != leading.vectors.shape[1]:
        # Of the turned columns: a mixture of two would get the correction of neither.
        squares = small.total(turned.xv**2)
        step = _turned_step(
            _outside(x, leading, gram), rotation, _safe_inverse(squares)
        )
        turned = _move(turned, Leading(step, product(x, step)), squares)
    # The second-order errors left are corrected at once: norms of the columns, angles
    # between them, and S.
    turned, defect = _mended(turned)
    gram = product_tn(turned.xv, turned.xv)
    t = angles_of(of_orthonormal(gram, defect, small.diagonal(gram)), rank).t
    return _rotate(turned, _small_rotation(t, defect))


@kernel
def _turned_step(outside: Array, rotation: Array, inverse: Array) -> Array:
    return dot(outside, rotation) * inverse


@kernel
def of_orthonormal(gram: Array, defect: Array, values: Array) -> Array:
    """``(I + E / 2) S (I + E / 2)``, to first order in the defect E."""
    return gram + defect * (values + values[:, None]) / 2


@kernel
def _small_rotation(t: Array, defect: Array) -> Array:
    """Rotation by T and re-orthonormalization, both to second order."""
    both = t + defect / 2
    return (
        jnp.eye(len(t), dtype=t.dtype)
        + both
        + dot(both, both) / 2
        + dot(defect, defect) / 4
    )


def _floor(delta: Array, squares: Array) -> Array:
    # Below this, delta could only act on rounding errors.
    epsilon = jnp.finfo(squares.dtype).eps
    return jnp.maximum(delta, epsilon * jnp.sqrt(small.largest(squares)))


def _gain(delta: Array, unit: Array | None, step_size: float) -> Array:
    width = delta if unit is None else delta * unit
    return spectrum.gain(width, step_size, unit is None)


def _weights(
    leading: Leading, delta: Array, unit: Array | None, rank: int, step_size: float
) -> tuple[Array, Array, Array]:
    """Squared singular values, and their weights in the cut and the descent."""
    squares = small.total(leading.xv**2)
    kept = small.largest_ones(squares, rank)
    delta = _floor(delta, squares)
    gain = _gain(delta, unit, step_size)
    return squares, kept, spectrum.descended_weights(kept, squares / delta**2, gain)


@kernel
def times(xv: Array, kept: Array, weights: Array) -> tuple[Array, Array]:
    return kept * xv, weights * xv


def cut_and_descend(
    x: Array,
    vectors: Array,
    delta: Array,
    *,
    rank: int,
    step_size: float,
    unit: Array | None,
) -> tuple[Array, Array, Array]:
    """`splic_jax.solvers.exact.cut_and_descend` by `track`.

    Args:
        x: ``[m, n]`` with entries of about 1.
        vectors: of the previous step.
        delta: width of the smoothed rank, in the unit of x.
        rank: r.
        step_size: mu.
        unit: None for the step relative to delta^2; for the step as printed, the
            caller's value of an entry of 1.

    Returns:
        The cut matrix, the descended one, and the vectors for the next step.
    """
    if x.shape[0] < x.shape[1]:
        cut, descended, vectors = cut_and_descend(
            small.transpose(x),
            vectors,
            delta,
            rank=rank,
            step_size=step_size,
            unit=unit,
        )
        return small.transpose(cut), small.transpose(descended), vectors
    return _cut_and_descend(x, vectors, delta, unit, rank, step_size)


# `x`, `vectors`, `delta` and `unit`, or their cotangents.
_Inputs = tuple[Array, Array, Array, Array | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _cut_and_descend(
    x: Array,
    vectors: Array,
    delta: Array,
    unit: Array | None,
    rank: int,
    step_size: float,
) -> tuple[Array, Array, Array]:
    leading = track(x, vectors, delta, rank)
    _, kept, weights = _weights(leading, delta, unit, rank, step_size)
    cut, descended = times(leading.xv, kept, weights)
    back = small.transpose(leading.vectors)
    cut = product(cut, back)
    if jax.default_backend() == "cpu":
        descended = jax.lax.cond(
            small.anywhere(jnp.any(weights != kept)),
            lambda: product(descended, back),
            lambda: cut,
        )
    else:
        descended = product(descended, back)
    return cut, descended, leading.vectors


def _with_residuals(
    x: Array, vectors: Array, delta: Array, unit: Array | None, *settings: Any
) -> tuple[tuple[Array, Array, Array], _Inputs]:
    cut, descended, vectors = _cut_and_descend(x, vectors, delta, unit, *settings)
    vectors = checkpoint_name(vectors, VECTORS)
    return (cut, descended, vectors), (x, vectors, delta, unit)


def _pull_back(
    rank: int,
    step_size: float,
    residuals: _Inputs,
    cotangents: tuple[Array, Array, Array],
) -> _Inputs:
    """The derivative in x and delta; the vectors are only a starting point.

    The transpose of that in `splic_jax.solvers.exact`. The derivative of the span has
    two parts: towards the other columns of the basis by divided differences, and out of
    it by the series for (lambda_j - X^T X)^{-1}, which converges at the rate
    (sigma_{p+1} / sigma_r)^2.
    """
    x, vectors, delta, unit = residuals
    of_cut, of_descended, _ = cotangents
    leading = Leading(vectors, product(x, vectors))
    (squares, kept, weights), pull_weights = jax.vjp(
        lambda d: _weights(leading, d, unit, rank, step_size), delta
    )
    width = _floor(delta, squares)
    differences = spectrum.divided_differences(
        jnp.sqrt(squares), kept, weights, width, _gain(width, unit, step_size)
    )

    # The cotangent of Y = X V, first where Y is the left factor of the results.
    turned = product(of_cut, vectors), product(of_descended, vectors)
    of_xv = _weighed(*turned, kept, weights)
    zeros = jnp.zeros_like(kept)
    of_weights = small.total(leading.xv * turned[1])
    (of_delta,) = pull_weights((zeros, zeros, of_weights))
    gram = _of_gram(
        product_tn(leading.xv, turned[0]),
        product_tn(leading.xv, turned[1]),
        *differences,
    )
    # The cotangent of the part of dV outside the span.
    cut, descended = times(leading.xv, kept, weights)
    leaving = product_tn(of_cut, cut) + product_tn(of_descended, descended)
    leaving += product_tn(x, of_xv)
    inverse = kept * _safe_inverse(squares)

    def outside(v: Array) -> Array:
        return _rest(v, vectors, product_tn(vectors, v))

    pulled = outside(leaving * inverse)
    for _ in range(_SERIES_TERMS):
        more = product_tn(x, product(x, pulled))
        pulled = outside((leaving + more) * inverse)
    of_xv += product(leading.xv, gram) + product(x, pulled)
    of_x = product_nt(of_xv, vectors) + product_nt(leading.xv, pulled)
    of_unit = None if unit is None else jnp.zeros_like(unit)
    return of_x, jnp.zeros_like(vectors), of_delta, of_unit


@kernel
def _weighed(of_cut: Array, of_descended: Array, kept: Array, weights: Array) -> Array:
    return of_cut * kept + of_descended * weights


@kernel
def _of_gram(of_cut: Array, of_descended: Array, cut: Array, descended: Array) -> Array:
    half = of_cut * cut + of_descended * descended
    return half + half.T


_cut_and_descend.defvjp(_with_residuals, _pull_back)
