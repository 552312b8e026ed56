"""The total variation term, paper eq. (6), and its gradient, eq. (10)."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from splic_jax.arguments import require_matrix
from splic_jax.small import kernel

TVForm = Literal["exact", "printed"]


def total_variation(
    x: Float[Array | np.ndarray, "m n"], scales: int = 1
) -> Float[Array, ""]:
    r"""Squared differences between neighbouring pixels, paper eq. (6).

    .. math::
        C(X) = \frac12 \sum_{i<m,\, j} (x_{i,j} - x_{i+1,j})^2
             + \frac12 \sum_{i,\, j<n} (x_{i,j} - x_{i,j+1})^2

    which is what the three sums of eq. (6) add up to: every pair of neighbours once.
    With `scales` S > 1 it is summed over a dyadic pyramid, ``C(X) + C(P X) + ... +
    C(P^{S-1} X)``, where P averages 2 x 2 blocks (the last row or column of an odd
    side is repeated). The paper speaks of a multi-scale TV and defines one scale.

    Args:
        x: matrix, any float dtype and unit.
        scales: number of levels of the pyramid, >= 1.

    Returns:
        A scalar of x's dtype, in the unit of x squared.

    Raises:
        TypeError, ValueError: if `x` is no array, or no matrix of floats.
    """
    require_matrix("x", x)
    x = jnp.asarray(x)
    value = jnp.zeros((), x.dtype)
    for level in range(scales):
        x = x if level == 0 else halve(x)
        value += jnp.sum(jnp.diff(x, axis=0) ** 2) / 2
        value += jnp.sum(jnp.diff(x, axis=1) ** 2) / 2
    return value


def total_variation_gradient(
    x: Float[Array | np.ndarray, "m n *batch"], form: TVForm = "exact", scales: int = 1
) -> Float[Array, "m n *batch"]:
    r"""Gradient of `total_variation`, or eq. (10) as printed.

    ``form="exact"`` is the gradient of eq. (6), the 5-point Laplacian: at each pixel
    the sum of (own value - neighbour) over its 2 to 4 neighbours. ``form="printed"``
    is eq. (10) to the letter, which keeps only the neighbours at i+1 and j+1:

    .. math::
        \nabla C(X)_{i,j} = \begin{cases}
            2 x_{i,j} - x_{i+1,j} - x_{i,j+1} & i < m, j < n \\
            x_{i,j} - x_{i,j+1} & i = m \\
            x_{i,j} - x_{i+1,j} & j = n \end{cases}

    (0 at i = m, j = n, which has neither neighbour). The two differ by exactly the
    backward differences, so (10) is the gradient of no function.

    Args:
        x: matrix, any float dtype and unit; further axes are a batch.
        form: "exact" or "printed".
        scales: levels of the pyramid of `total_variation`, >= 1.

    Returns:
        The gradient in the unit of x, same shape and dtype as x.

    Raises:
        TypeError: if `x` is no array.
        ValueError: if it is no matrix of floats, or `form` is neither.
    """
    require_matrix("x", x, batch=True)
    if form not in ("exact", "printed"):
        raise ValueError(f"form must be 'exact' or 'printed', got {form!r}")
    x = jnp.asarray(x)
    # A neighbour beyond the edge has the pixel's own value.
    padded = _with_border(x)
    gradient = (x - padded[2:, 1:-1]) + (x - padded[1:-1, 2:])
    if form == "exact":
        gradient += (x - padded[:-2, 1:-1]) + (x - padded[1:-1, :-2])
    if scales > 1:
        coarse, adjoint = jax.vjp(halve, x)
        (pulled,) = adjoint(total_variation_gradient(coarse, form, scales - 1))
        gradient += pulled
    return gradient


@kernel
def _with_border(x: Array) -> Array:
    return jnp.pad(x, ((1, 1), (1, 1), *((0, 0),) * (x.ndim - 2)), mode="edge")


def halve(x: Float[Array | np.ndarray, "m n *batch"]) -> Float[Array, "p q *batch"]:
    """Mean of each 2 x 2 block; the last row or column of an odd side is repeated."""
    m, n = x.shape[:2]
    x = jnp.pad(x, ((0, m % 2), (0, n % 2), *((0, 0),) * (x.ndim - 2)), mode="edge")
    return (x[0::2, 0::2] + x[1::2, 0::2] + x[0::2, 1::2] + x[1::2, 1::2]) / 4
