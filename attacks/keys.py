"""Random keys of any type, from which images draw each by itself.

With some of JAX's generators ("rbg", "unsafe_rbg") `jax.vmap` draws for all images from
the first one's key, so that an image's numbers would depend on its batch. Threefry's do
not. Whatever generator a caller chose, images draw from it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

GENERATOR = "threefry2x32"


def mappable(key: PRNGKeyArray) -> Key[Array, ""]:
    """A key that `jax.vmap` may draw with: of threefry, made from one of any type.

    A threefry key comes back as it is. The bits of another are folded into one, so that
    equal keys draw equal numbers, and different keys different ones.

    Args:
        key: of `jax.random.key`, or of the older `jax.random.PRNGKey`.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if str(jax.random.key_impl(key)) == GENERATOR:
        return key
    made = jax.random.key(0, impl=GENERATOR)
    for word in jax.random.key_data(key).reshape(-1):
        made = jax.random.fold_in(made, word)
    return made
