"""The total variation term, paper eq. (6)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from splic_jax.arguments import require_matrix


def total_variation(
    x: Float[Array | np.ndarray, "m n"], scales: int = 1
) -> Float[Array, ""]:
    r"""Squared differences between neighboring pixels, paper eq. (6).

    .. math::
        C(X) = \frac12 \sum_{i<m,\, j} (x_{i,j} - x_{i+1,j})^2
             + \frac12 \sum_{i,\, j<n} (x_{i,j} - x_{i,j+1})^2

    the three sums of eq. (6) written as two: every pair of neighbors once. With
    `scales` S > 1 it is summed over a dyadic pyramid, ``C(X) + C(P X) + ... +
    C(P^{S-1} X)``, where P averages 2 x 2 blocks (the last row or column of an odd
    side is repeated). The paper mentions a multi-scale TV but defines one scale.

    Args:
        x: matrix, any float dtype and unit.
        scales: number of levels of the pyramid, >= 1.

    Returns:
        A scalar of x's dtype, in the unit of x squared.

    Raises:
        TypeError, ValueError: if `x` is not an array, or not a matrix of floats.
    """
    require_matrix("x", x)
    x = jnp.asarray(x)
    value = jnp.zeros((), x.dtype)
    for level in range(scales):
        x = x if level == 0 else halve(x)
        value += jnp.sum(jnp.diff(x, axis=0) ** 2) / 2
        value += jnp.sum(jnp.diff(x, axis=1) ** 2) / 2
    return value


def halve(x: Float[Array | np.ndarray, "m n *batch"]) -> Float[Array, "p q *batch"]:
    """Mean of each 2 x 2 block; the last row or column of an odd side is repeated."""
    m, n = x.shape[:2]
    x = jnp.pad(x, ((0, m % 2), (0, n % 2), *((0, 0),) * (x.ndim - 2)), mode="edge")
    return (x[0::2, 0::2] + x[1::2, 0::2] + x[0::2, 1::2] + x[1::2, 1::2]) / 4
