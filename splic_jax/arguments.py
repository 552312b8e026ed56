"""What every function asks of the arguments it shares with others: arrays and keys.

The message names the argument, says what came and what is wanted. Values that are being
traced have a type, a shape and a dtype as well.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def require_array(name: str, value: Any) -> None:
    """Refuses what is no array of JAX or NumPy, such as a list.

    Raises:
        TypeError: naming the argument.
    """
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(
            f"{name} must be an array of JAX or NumPy, got {described(value)}"
        )


def require_matrix(name: str, value: Any, *, batch: bool = False) -> None:
    """Refuses what is no matrix of floats.

    Args:
        name: of the argument.
        value: the argument.
        batch: whether it may have further axes.

    Raises:
        TypeError: if it is no array.
        ValueError: for another rank or dtype.
    """
    require_array(name, value)
    right = value.ndim >= 2 if batch else value.ndim == 2
    if not right or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{name} must be a matrix of floats, got {described(value)}")


def require_key(key: Any) -> None:
    """Refuses what is not one typed key.

    Raises:
        TypeError: for a number, an old-style key or anything else.
        ValueError: for several keys.
    """
    if not isinstance(key, jax.Array):
        raise TypeError(f"key must be a key of jax.random.key, got {described(key)}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"key must be a key of jax.random.key, got {described(key)}; "
            "jax.random.wrap_key_data(key) makes one of an old-style key"
        )
    if key.shape:
        raise ValueError(f"key must be one key, got keys of shape {key.shape}")


def described(value: Any) -> str:
    """An array by dtype and shape, anything else by its type."""
    if isinstance(value, jax.Array | np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"a value of type {type(value).__name__}"
