"""Random masks: which pixels are anchors."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from splic_jax.arguments import require_key
from splic_jax.masks.designs import DESIGNS, Design


def sample_mask(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    keep_probability: float = 0.5,
    kind: Literal["shared", "independent"] = "shared",
    design: Design = "iid",
) -> Bool[Array, "h w c"]:
    """Draws the anchors of one image, by default each pixel independently.

    There is always at least one anchor: in "iid" the pixel with the lowest number.

    Args:
        key: the image's own key.
        shape: height, width, channels.
        keep_probability: probability that a pixel is an anchor, in (0, 1].
        kind: "shared" draws one mask for all channels, "independent" one for each.
        design: see `splic_jax.masks.designs`.

    Returns:
        True at the anchors.

    Raises:
        TypeError: for an invalid key.
        ValueError: for several keys, a design that does not have this keep
            probability, or a shape that is not three numbers.
    """
    require_key(key)
    if np.shape(shape) != (3,):
        raise ValueError(f"shape must be (height, width, channels), got {shape}")
    height, width, channels = shape
    if design != "iid":
        draw = DESIGNS[design]
        if kind == "shared":
            mask = draw(key, (height, width), keep_probability)[..., None]
        else:
            keys = jax.random.split(key, channels)
            masks = [draw(key, (height, width), keep_probability) for key in keys]
            mask = jnp.stack(masks, axis=-1)
        return jnp.broadcast_to(mask, shape)
    drawn = (height, width, 1 if kind == "shared" else channels)
    uniform = jax.random.uniform(key, drawn, jnp.float32)
    least = jnp.min(uniform, axis=(0, 1), keepdims=True)
    return jnp.broadcast_to((uniform < keep_probability) | (uniform == least), shape)
