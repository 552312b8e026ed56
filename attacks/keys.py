"""Random keys of any type, for draws that do not depend on the batch.

With some of JAX's generators ("rbg", "unsafe_rbg") `jax.vmap` uses the key of the first
image for all, so an image's draws would depend on its batch. Those of threefry do not,
so images draw from threefry, whichever generator the caller chose.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

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
