"""Functions of the singular values of a matrix, differentiable where they repeat.

Each is `f(X X^T) X`, with the eigenvalues of the smaller Gram matrix in place of an
SVD: several times faster where a side is short. Its derivative takes the divided
differences of `f` alone (Daleckii and Krein 1965), not those of singular vectors.
Singular values below ``sqrt(eps) * sigma_1``, 3e-4 of the largest in float32, cannot be
told from rounding errors.

`truncate`, `largest` and `nuclear_norm` take an SVD on the CPU. A GPU's library
decomposes symmetric matrices many at a time, but matrices with a side over 32 one after
another by its SVD; so there the results come from the eigenvectors U of the Gram matrix
and ``U^T X``, without a division by a singular value.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from splic_jax.objective.smoothed_rank_gradient import (
    spectral_weight,
    spectral_weight_differences,
)
from splic_jax.solvers.exact import cut_and_descend


def soft_threshold(x: Float[Array, "m n"], threshold: ArrayLike) -> Float[Array, "m n"]:
    r"""Lowers every singular value, down to 0 at most.

    .. math:: D_t(X) = U \, \mathrm{diag}(\max(\sigma_k - t, 0)) V^T

    The proximal operator of ``t ||X||_*``. Differentiable in both wherever no singular
    value equals the threshold, also where singular values are equal.

    Args:
        x: matrix, float32 or float64.
        threshold: t, in the unit of the singular values; >= 0.

    Returns:
        The matrix of the same shape.

    References:
        Cai, Candes and Shen 2010, "A singular value thresholding algorithm for matrix
        completion", theorem 2.1.
    """
    return _reweighed(x, threshold, _SoftThreshold())


def descend_smoothed_rank(
    x: Float[Array, "m n"], delta: ArrayLike, step_size: float
) -> Float[Array, "m n"]:
    r"""A gradient step on the smoothed rank, `splic_jax.smoothed_rank`.

    .. math:: X - \mu \delta^2 \nabla F_\delta(X)
        = U \, \mathrm{diag}(\sigma_k (1 - \mu e^{-\sigma_k^2 / 2 \delta^2})) V^T

    Differentiable in both. A delta under ``sqrt(eps) * sigma_1`` acts as that number.

    Args:
        x: matrix, float32 or float64.
        delta: width of the smoothed rank, in the unit of the singular values; > 0.
        step_size: mu.

    Returns:
        The matrix of the same shape.
    """
    return _reweighed(x, delta, _Descent(step_size))


def truncate(x: Float[Array, "m n"], rank: int) -> Float[Array, "m n"]:
    """Keeps the `rank` largest singular values, 1 to min(m, n).

    Differentiable unless the last one kept equals the first one dropped. Singular
    values within rounding of that border, ``min(m, n) eps sigma_1^2`` in the squares on
    an accelerator, may be swapped or mixed, which moves the result by less than their
    size, and the derivative leaves such pairs out.
    """
    if jax.default_backend() == "cpu":
        return cut_and_descend(x, 1.0, rank=rank, step_size=0.0, relative=True)[0]
    return _truncated(x, rank)


def largest(x: Float[Array, "m n"]) -> Float[Array, ""]:
    """The largest singular value; differentiable unless it repeats."""
    if jax.default_backend() == "cpu":
        return jnp.linalg.svd(x, compute_uv=False)[0]
    return _largest(x)


def nuclear_norm(x: Float[Array, "m n"]) -> Float[Array, ""]:
    """The sum of the singular values; without a derivative.

    On an accelerator each is off by ``30 eps sigma_1`` at most, or, where singular
    values are that small, ``sqrt(eps) sigma_1 / 30``.
    """
    x = jax.lax.stop_gradient(x)
    if jax.default_backend() == "cpu":
        return jnp.sum(jnp.linalg.svd(x, compute_uv=False))
    return _nuclear_norm(x)


# What singular values are multiplied by, given one parameter, and the divided
# differences of that as a function of sigma squared.


class _SoftThreshold(NamedTuple):
    def weights(self, s: Array, threshold: Array) -> Array:
        above = s > threshold
        return jnp.where(above, 1 - threshold / jnp.where(above, s, 1), 0)

    def differences(self, s: Array, threshold: Array) -> Array:
        # Across the threshold the numerator is less than the gap: no tie diverges.
        above = s > threshold
        inverse = jnp.where(above, 1 / jnp.where(above, s, 1), 0)
        high, low = jnp.maximum(s[:, None], s), jnp.minimum(s[:, None], s)
        across = above[:, None] != above
        sums = jnp.where(high > 0, high + low, 1)
        within = threshold * inverse[:, None] * inverse / sums
        safe = jnp.where(across, high, 1)
        gap = jnp.where(across, high - low, 1)
        return jnp.where(across, (high - threshold) / (safe * gap * sums), within)


class _Descent(NamedTuple):
    step_size: float

    def weights(self, s: Array, delta: Array) -> Array:
        ratios = s / self._floored(s, delta)
        return 1 - self.step_size * spectral_weight(ratios**2)

    def differences(self, s: Array, delta: Array) -> Array:
        delta = self._floored(s, delta)
        return self.step_size * spectral_weight_differences(s, delta)

    def _floored(self, s: Array, delta: Array) -> Array:
        finfo = jnp.finfo(s.dtype)
        # A matrix of zeros sets no scale, and 1 / delta^4 must not overflow.
        return jnp.maximum(delta, jnp.maximum(finfo.eps**0.5 * s[-1], finfo.tiny**0.2))


class _Truncation(NamedTuple):
    rank: int

    def weights(self, s: Array, parameter: Array) -> Array:
        del parameter
        return self._kept(s).astype(s.dtype)

    def differences(self, s: Array, parameter: Array) -> Array:
        del parameter
        kept, squares = self._kept(s), s**2
        gap = jnp.abs(squares[:, None] - squares)
        across = kept[:, None] != kept
        across &= gap > len(s) * jnp.finfo(s.dtype).eps * squares[-1]
        return jnp.where(across, 1 / jnp.where(across, gap, 1), 0)

    def _kept(self, s: Array) -> Array:
        return jnp.arange(len(s)) >= len(s) - self.rank


_Rule = _SoftThreshold | _Descent | _Truncation


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _reweighed(x: Array, parameter: ArrayLike, rule: _Rule) -> Array:
    parameter = jnp.asarray(parameter, x.dtype)
    done = _reweighed_wide(_wide(x), parameter, rule)
    return done.T if x.shape[0] > x.shape[1] else done


def _decompose(x: Array) -> tuple[Array, Array]:
    """Left singular vectors and singular values of a wide matrix, smallest first."""
    squares, vectors = jnp.linalg.eigh(_matmul(x, x.T), symmetrize_input=False)
    return vectors, jnp.sqrt(jnp.maximum(squares, 0))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _reweighed_wide(x: Array, parameter: Array, rule: _Rule) -> Array:
    u, s = _decompose(x)
    return _matmul(u * rule.weights(s, parameter), _matmul(u.T, x))


@_reweighed_wide.defjvp
def _reweighed_wide_jvp(
    rule: _Rule,
    primals: tuple[Array, Array],
    tangents: tuple[Array, Array],
) -> tuple[Array, Array]:
    x, parameter = primals
    dx, dparameter = tangents
    u, s = _decompose(x)
    weights, dweights = jax.jvp(partial(rule.weights, s), (parameter,), (dparameter,))
    u_x, u_dx = _matmul(u.T, x), _matmul(u.T, dx)
    half = _matmul(u_dx, u_x.T)
    rotated = _matmul(rule.differences(s, parameter) * (half + half.T), u_x)
    tangent = rotated + dweights[:, None] * u_x + weights[:, None] * u_dx
    return _matmul(u * weights, u_x), _matmul(u, tangent)


# As on an accelerator.


def _truncated(x: Array, rank: int) -> Array:
    return _reweighed(x, 0.0, _Truncation(rank))


def _largest(x: Array) -> Array:
    x = _wide(x)
    u, _ = _decompose(jax.lax.stop_gradient(x))
    # The derivative in x alone is u_1^T dX v_1, as it should be.
    square = jnp.sum(_matmul(u[:, -1], x) ** 2)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _nuclear_norm(x: Array) -> Array:
    def rotated(x: Array) -> tuple[Array, Array]:
        """Rows that are orthogonal up to rounding, and the norm of each."""
        u, _ = _decompose(x)
        rows = _matmul(u.T, x)
        return rows, jnp.sqrt(jnp.sum(rows**2, axis=1))

    # The norms are closer than the roots of eigenvalues; small ones are off by
    # roundings of the largest, so they are taken once more without the large ones.
    rows, norms = rotated(_wide(x))
    large = norms > jnp.max(norms) / 32
    _, rest = rotated(jnp.where(large[:, None], 0, rows))
    return jnp.sum(jnp.where(large, norms, 0)) + jnp.sum(rest)


def _wide(x: Array) -> Array:
    return x.T if x.shape[0] > x.shape[1] else x
