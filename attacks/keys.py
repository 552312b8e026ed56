"""Random keys of any type, for draws that do not depend on the batch.

With some of JAX's generators ("rbg", "unsafe_rbg") `jax.vmap` uses the key of the first
image for all, so an image's draws would depend on its batch. Those of threefry do not,
so images draw from threefry, whichever generator the caller chose.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Integer, Key, PRNGKeyArray

GENERATOR = "threefry2x32"


def mappable(key: PRNGKeyArray) -> Key[Array, ""]:
    """A threefry key, safe to draw with under `jax.vmap`, made from any key.

    A threefry key is returned unchanged. The bits of another are folded into one, so
    equal keys give equal draws and different keys different ones.

    Args:
        key: from `jax.random.key` or the older `jax.random.PRNGKey`.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if str(jax.random.key_impl(key)) == GENERATOR:
        return key
    made = jax.random.key(0, impl=GENERATOR)
    for word in jax.random.key_data(key).reshape(-1):
        made = jax.random.fold_in(made, word)
    return made


def image_keys(
    key: PRNGKeyArray, first_index: Integer[ArrayLike, ""], images: Array
) -> Key[Array, " n"]:
    """A threefry key per image, from the image's index in the data set."""
    return jax.vmap(jax.random.fold_in, (None, 0))(
        mappable(key), first_index + jnp.arange(len(images))
    )


def fold_in_index(
    keys: Key[Array, " n"], index: Integer[Array, ""] | int
) -> Key[Array, " n"]:
    """Folds one number into each image's key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, index)
