"""The gradient of the smoothed rank, paper eq. (9), and its spectral weight."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from splic_jax.arguments import require_matrix


def spectral_weight(squared_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The exponential of eq. (9): near 1 for small singular values, 0 for large ones.

    .. math:: e^{-\sigma^2 / 2 \delta^2}

    The gradient multiplies a singular value by this and by 1 / delta^2, so a descent
    step of ``mu delta^2`` multiplies it by ``1 - mu e^{-sigma^2 / 2 delta^2}``.

    Args:
        squared_ratio: :math:`(\sigma / \delta)^2`.

    Returns:
        Of the same shape, in [0, 1].
    """
    return jnp.exp(-squared_ratio / 2)


def spectral_weight_differences(
    s: Float[Array, " p"], delta: Float[Array, ""]
) -> Float[Array, "p p"]:
    """Divided differences of the negated weight, as a function of sigma squared.

    ``-(w_i - w_j) / (s_i^2 - s_j^2)``, and the negated derivative where s_i = s_j.

    Args:
        s: singular values, in any order.
        delta: width of the smoothed rank, in their unit; > 0.
    """
    ratios = (s / delta) ** 2
    t = jnp.abs(ratios[:, None] - ratios[None, :]) / 2
    slope = jnp.where(t == 0, 1, -jnp.expm1(-t) / jnp.where(t == 0, 1, t))
    smaller = jnp.minimum(ratios[:, None], ratios[None, :])
    return spectral_weight(smaller) * slope / (2 * delta**2)


def smoothed_rank_gradient(
    x: Float[Array | np.ndarray, "m n"], delta: ArrayLike
) -> Float[Array, "m n"]:
    r"""Gradient of the smoothed rank, paper eq. (9), from an SVD.

    .. math::
        \nabla F_\delta(X) = U \, \mathrm{diag}\left(
            \frac{\sigma_k}{\delta^2} e^{-\sigma_k^2 / 2 \delta^2} \right) V^T,
        \qquad X = U \, \mathrm{diag}(\sigma_k) V^T

    The closed form as printed (U holds the left singular vectors and V the right ones;
    the paper's text below eq. (7) swaps them). Its error is about
    ``eps sigma_1 / delta^2``, the rounding of the SVD, at any delta. Differentiate
    `smoothed_rank`, not this: JAX's derivative of the SVD fails where singular values
    coincide.

    Args:
        x: matrix, float32 or float64, entries in any unit.
        delta: width of the Gaussian, in the unit of the singular values; > 0.

    Returns:
        The gradient, in the inverse unit of x, same shape and dtype as x.

    Raises:
        TypeError, ValueError: if `x` is not an array, or not a matrix of floats.

    References:
        Zhao et al., eq. (9); Lewis 1995, theorem 3.1.
    """
    require_matrix("x", x)
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    weight = s / delta * spectral_weight((s / delta) ** 2) / delta
    return jnp.matmul(u * weight, vt, precision=jax.lax.Precision.HIGHEST)
