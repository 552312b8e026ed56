"""The exact solver: a singular value decomposition of every iterate.

The spectral part of a step cuts to rank r, then descends the smoothed rank. Both
results are the matrix times a function of its Gram matrix, `X V diag(w) V^T`.
Differentiating the SVD itself would divide by the gaps between all singular values,
which vanish on flat images. The derivative of such a product needs only the divided
differences of `w`, which stay finite wherever the product is differentiable (Daleckii
and Krein 1965; Higham, Functions of Matrices, theorem 3.11).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from splic_jax.solvers import arrays
from splic_jax.solvers.algorithm1 import ArrayProblem
from splic_jax.solvers.spectrum import descended_weights, divided_differences, gain

_Pair = tuple[Array, Array]


class Exact(arrays.OnArrays):
    """A `Solver` of one matrix, by an SVD in each step."""

    def init(self, given: arrays.Given) -> tuple[ArrayProblem, None, Array]:
        """The problem, no basis, and the largest singular value."""
        problem = arrays.problem_of(given, self.config)
        # The values alone: unlike the vectors' derivative, theirs divides by no gaps.
        values = jnp.linalg.svd(problem.anchors, compute_uv=False)
        return problem, None, values[0]

    def step(
        self, x: Array, basis: None, delta: Array, unit: Array
    ) -> tuple[Array, None]:
        """Lines 4 to 11 of Algorithm 1."""
        del basis, unit
        config = self.config
        cut, descended = cut_and_descend(
            x,
            delta,
            rank=config.rank_of(x.shape) if config.rank_cut else min(x.shape),
            step_size=config.step_size,
            relative=config.step_scaling == "relative",
        )
        return arrays.smooth(cut, descended, config, self.blocks), None


def cut_and_descend(
    x: Float[Array, "m n"],
    delta: ArrayLike,
    *,
    rank: int,
    step_size: float,
    relative: bool,
) -> tuple[Float[Array, "m n"], Float[Array, "m n"]]:
    r"""Lines 4 to 8 of Algorithm 1 and the smoothed rank's part of line 11.

    With ``X = U diag(sigma) V^T``, keep the `rank` largest singular values and return

    .. math::
        X_r &= U \, \mathrm{diag}(\sigma_k [k \le r]) V^T \\
        Y   &= X_r - g \nabla F_\delta(X_r)
             = U \, \mathrm{diag}\left(\sigma_k [k \le r]
               (1 - \tfrac{g}{\delta^2} e^{-\sigma_k^2 / 2 \delta^2})\right) V^T

    where ``g = step_size * delta^2`` if `relative`, else ``g = step_size``.
    Differentiable in `x` and `delta` wherever ``sigma_r > sigma_{r+1}``, whatever the
    other gaps. Where those two are equal up to rounding the cut is discontinuous, and
    the derivative leaves the pair out. A delta under ``eps * sigma_1``, which could
    only act on rounding errors, is raised to that number.

    Args:
        x: matrix, float32 or float64.
        delta: width of the smoothed rank, in the unit of x's singular values; > 0. For
            a derivative, above the fifth root of the dtype's smallest normal number.
        rank: r, 1 to min(m, n); min(m, n) cuts nothing.
        step_size: mu.
        relative: multiply the gradient by delta^2 (reference [4]) or not (line 11).

    Returns:
        The cut matrix and the descended one.
    """
    delta = jnp.asarray(delta, x.dtype)
    if x.shape[0] >= x.shape[1]:
        return _cut_and_descend(x, delta, rank, step_size, relative)
    cut, descended = _cut_and_descend(x.T, delta, rank, step_size, relative)
    return cut.T, descended.T


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _floor(delta: Array, s: Array) -> Array:
    return jnp.maximum(delta, jnp.finfo(s.dtype).eps * s[0])


def _weights(
    s: Array, delta: Array, rank: int, step_size: float, relative: bool
) -> tuple[Array, Array]:
    delta = _floor(delta, s)
    kept = (jnp.arange(s.shape[0]) < rank).astype(s.dtype)
    factor = gain(delta, step_size, relative)
    return kept, descended_weights(kept, (s / delta) ** 2, factor)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _cut_and_descend(
    x: Array, delta: Array, rank: int, step_size: float, relative: bool
) -> _Pair:
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    kept, shrunk = _weights(s, delta, rank, step_size, relative)
    return _matmul(u * (s * kept), vt), _matmul(u * (s * shrunk), vt)


@_cut_and_descend.defjvp
def _cut_and_descend_jvp(
    rank: int, step_size: float, relative: bool, primals: _Pair, tangents: _Pair
) -> tuple[_Pair, _Pair]:
    x, delta = primals
    dx, ddelta = tangents
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    kept, shrunk = _weights(s, delta, rank, step_size, relative)
    _, (_, dshrunk) = jax.jvp(
        lambda d: _weights(s, d, rank, step_size, relative), (delta,), (ddelta,)
    )

    # In units of sigma_1, so that no square under- or overflows.
    unit = jnp.where(s[0] > 0, s[0], 1)
    width = _floor(delta, s) / unit
    s = s / unit
    us = u * s

    # d(X^T X) in the basis of the right singular vectors.
    dx_v = _matmul(dx, vt.T)
    half = _matmul(dx_v.T, us)
    dgram = half + half.T
    of_cut, of_descended = divided_differences(
        s, kept, shrunk, width, gain(width * unit, step_size, relative)
    )

    def tangent(weights: Array, dweights: Array, differences: Array) -> Array:
        rotated = _matmul(us, differences * dgram)
        return _matmul(dx_v * weights + rotated + us * unit * dweights, vt)

    dcut = tangent(kept, jnp.zeros_like(kept), of_cut)
    ddescended = tangent(shrunk, dshrunk, of_descended)
    return _cut_and_descend(x, delta, rank, step_size, relative), (dcut, ddescended)
