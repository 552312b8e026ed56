"""Random masks: which pixels are anchors."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key


def sample_mask(
    key: Key[Array, ""],
    shape: tuple[int, int, int],
    keep_probability: float = 0.5,
    kind: Literal["shared", "independent"] = "shared",
) -> Bool[Array, "h w c"]:
    """Draws the anchors of one image, each pixel independently.

    A draw without any anchor, which nothing could be completed from, is kept from
    happening: the pixel nearest to being chosen is one.

    Args:
        key: the image's own key.
        shape: height, width, channels.
        keep_probability: chance of a pixel to be an anchor, in (0, 1].
        kind: "shared" draws one mask for all channels, "independent" one for each.

    Returns:
        True at the anchors.
    """
    height, width, channels = shape
    drawn = (height, width, 1 if kind == "shared" else channels)
    uniform = jax.random.uniform(key, drawn)
    least = jnp.min(uniform, axis=(0, 1), keepdims=True)
    return jnp.broadcast_to((uniform < keep_probability) | (uniform == least), shape)
