"""A classifier that needs no training."""

import jax
import jax.numpy as jnp


def brightness(images):
    """Logits of two classes, dark and light; steep, so that 8/255 turns many over."""
    light = 40 * (images.mean(axis=(1, 2, 3)) - 0.5)
    return jnp.stack([-light, light], axis=1)


LOGITS = jax.tree_util.Partial(brightness)
