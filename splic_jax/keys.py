"""Random keys of any type, converted so that each image draws independently.

With some of JAX's generators ("rbg", "unsafe_rbg") `jax.vmap` draws for all images from
the first one's key, so an image's numbers would depend on its batch. Threefry's do not.
Images draw from threefry, whatever generator the caller chose.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

GENERATOR = "threefry2x32"


def mappable(key: PRNGKeyArray) -> Key[Array, ""]:
    """A threefry key, safe to draw with under `jax.vmap`, from a key of any type.

    A threefry key is returned as it is. The bits of any other are folded into one, so
    that equal keys draw equal numbers, and different keys different ones.

    Args:
        key: from `jax.random.key`, or from the older `jax.random.PRNGKey`.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if str(jax.random.key_impl(key)) == GENERATOR:
        return key
    made = jax.random.key(0, impl=GENERATOR)
    for word in jax.random.key_data(key).reshape(-1):
        made = jax.random.fold_in(made, word)
    return made


def generator(key: Key[Array, ""]) -> dict[str, Any]:
    """The settings that a key's random numbers depend on beside its bits, for JSON."""
    option = "jax_threefry_partitionable"  # which type checkers do not see
    return {
        "key_type": str(jax.random.key_impl(key)),
        option: bool(getattr(jax.config, option)),
    }
