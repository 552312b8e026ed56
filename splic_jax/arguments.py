"""Checks of arguments that many functions share: arrays and keys.

Error messages name the argument, what is expected and what was given. Only types,
shapes and dtypes are checked, so traced values are checked too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def require_array(name: str, value: Any) -> None:
    """Refuses what is not a JAX or NumPy array, such as a list.

    Raises:
        TypeError: naming the argument.
    """
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(
            f"{name} must be an array of JAX or NumPy, got {described(value)}"
        )


def require_matrix(name: str, value: Any, *, batch: bool = False) -> None:
    """Refuses what is not a matrix of floats.

    Args:
        name: of the argument.
        value: the argument.
        batch: whether further axes are allowed.

    Raises:
        TypeError: if it is not an array.
        ValueError: for a wrong number of axes or a wrong dtype.
    """
    require_array(name, value)
    right = value.ndim >= 2 if batch else value.ndim == 2
    if not right or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{name} must be a matrix of floats, got {described(value)}")


def require_key(key: Any) -> None:
    """Refuses what is not a single key from `jax.random.key`.

    Raises:
        TypeError: for a number, an old-style key or anything else.
        ValueError: for several keys.
    """
    if not isinstance(key, jax.Array):
        raise TypeError(f"key must be a key of jax.random.key, got {described(key)}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"key must be a key of jax.random.key, got {described(key)}; "
            "convert an old-style key by jax.random.wrap_key_data(key)"
        )
    if key.shape:
        raise ValueError(f"key must be a single key, got keys of shape {key.shape}")


def described(value: Any) -> str:
    """The dtype and shape of an array, the type of anything else."""
    if isinstance(value, jax.Array | np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"a value of type {type(value).__name__}"
