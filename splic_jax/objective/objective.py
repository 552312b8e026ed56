"""The SPLIC objective, paper eq. (5)."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from splic_jax.objective.smoothed_rank import smoothed_rank
from splic_jax.objective.total_variation import total_variation


def objective(
    x: Float[Array | np.ndarray, "m n"],
    delta: ArrayLike,
    tv_weight: ArrayLike = 0.02,
    tv_scales: int = 1,
) -> Float[Array, ""]:
    r"""Smoothed rank plus weighted total variation, paper eq. (5).

    .. math:: F_\delta(X) + \lambda \, C(X)

    Args:
        x: matrix, float32 or float64.
        delta: width of the smoothed rank, in the unit of x's singular values; >= 0.
        tv_weight: lambda, in the inverse squared unit of x; >= 0.
        tv_scales: levels of the pyramid of `total_variation`.

    Returns:
        A scalar of x's dtype, as accurate as `smoothed_rank`.
    """
    return smoothed_rank(x, delta) + tv_weight * total_variation(x, tv_scales)
