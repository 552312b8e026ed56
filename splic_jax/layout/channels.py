"""Converts an image to the matrices that are completed, and back."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Shaped

Channels = Literal["separate", "concatenated"]


def to_matrices(
    image: Shaped[Array, "h w c"], channels: Channels
) -> Shaped[Array, "k m n"]:
    """Converts an image to one h x w matrix per channel, or one h x (c w) matrix."""
    matrices = jnp.moveaxis(image, 2, 0)
    if channels == "separate":
        return matrices
    return jnp.concatenate(list(matrices), axis=1)[None]


def from_matrices(
    matrices: Shaped[Array, "k m n"], image_channels: int
) -> Shaped[Array, "h w c"]:
    """The inverse of `to_matrices` for an image of `image_channels` channels."""
    if len(matrices) != image_channels:
        matrices = jnp.stack(jnp.split(matrices[0], image_channels, axis=1))
    return jnp.moveaxis(matrices, 0, 2)
