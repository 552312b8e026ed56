"""The gradient of the total variation, paper eq. (10), as printed and corrected."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from splic_jax.arguments import require_matrix
from splic_jax.layout.small import kernel
from splic_jax.objective.total_variation import halve

TVForm = Literal["exact", "printed"]


def total_variation_gradient(
    x: Float[Array | np.ndarray, "m n *batch"], form: TVForm = "exact", scales: int = 1
) -> Float[Array, "m n *batch"]:
    r"""Gradient of `total_variation`, or eq. (10) as printed.

    ``form="exact"`` is the gradient of eq. (6), the 5-point Laplacian: at each pixel
    the sum of (own value - neighbor) over its 2 to 4 neighbors. ``form="printed"``
    is eq. (10) as printed, which keeps only the neighbors at i+1 and j+1:

    .. math::
        \nabla C(X)_{i,j} = \begin{cases}
            2 x_{i,j} - x_{i+1,j} - x_{i,j+1} & i < m, j < n \\
            x_{i,j} - x_{i,j+1} & i = m \\
            x_{i,j} - x_{i+1,j} & j = n \end{cases}

    (0 at i = m, j = n, which has neither neighbor). It lacks the backward differences
    of the exact form, so it is not symmetric and the gradient of no function.

    Args:
        x: matrix, any float dtype and unit; further axes are batch axes.
        form: "exact" or "printed".
        scales: levels of the pyramid of `total_variation`, >= 1.

    Returns:
        The gradient in the unit of x, same shape and dtype as x.

    Raises:
        TypeError: if `x` is not an array.
        ValueError: if `x` is not a matrix of floats, or for another `form`.
    """
    require_matrix("x", x, batch=True)
    if form not in ("exact", "printed"):
        raise ValueError(f"form must be 'exact' or 'printed', got {form!r}")
    x = jnp.asarray(x)
    # A neighbor beyond the edge has the pixel's own value.
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


def difference_matrix(
    side: int, form: TVForm, padded: int
) -> Float[Array, "padded padded"]:
    """D, such that the gradient of a matrix X at one scale is ``D X + X D^T``.

    Built by comparisons alone, so that a kernel can compute it.

    Args:
        side: of the matrix, m for the left D and n for the right one.
        form: as in `total_variation_gradient`.
        padded: the side including zero padding, which does not count as neighbors.
    """
    shape = padded, padded
    i, j = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    neighbors = (j == i + 1) & (j < side)
    if form == "exact":
        neighbors |= (i == j + 1) & (i < side)
    neighbors = neighbors.astype(jnp.float32)
    return jnp.where(i == j, jnp.sum(neighbors, axis=1)[:, None], 0) - neighbors
