"""Refuses results that are not finite, before they are measured or trained on."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from train.utils.errors import UserError


def is_finite(seen: Float[Array, "n h w c"]) -> Bool[Array, " n"]:
    """Whether each image of a batch is finite."""
    finite: jax.Array = jnp.isfinite(seen).all(axis=(1, 2, 3))
    return finite


def require_finite(
    finite: Bool[np.ndarray, " n"], first_index: int, defense: str
) -> None:
    """Raises a `UserError` naming the first image that a defence made not finite."""
    if not np.all(finite):
        raise UserError(
            f"image {first_index + int(np.argmin(finite))} is not finite behind the "
            f"defense {defense}; choose milder settings"
        )
