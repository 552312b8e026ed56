"""The bilateral filter."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from splic_jax.fields import config, require_choice, require_integer, require_number
from splic_jax.transforms.base import per_image

_Pair = tuple[Array, Array]


@config
class BilateralConfig:
    """Settings of `filter_bilateral`.

    Attributes:
        radius: of the round window, in pixels; >= 1.
        space_std: sigma_d, of the Gaussian of the distance in pixels; in (0, 1e18].
        colour_std: sigma_r, of the Gaussian of the distance in colour, where a channel
            goes from 0 to 1; > 0.
        colour_distance: between two colours. "euclidean" as in Tomasi and Manduchi;
            "manhattan", the sum over the channels, as in OpenCV.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    radius: int = 2
    space_std: float = 1.5
    colour_std: float = 0.15
    colour_distance: Literal["euclidean", "manhattan"] = "euclidean"

    def __post_init__(self) -> None:
        require_integer(self, "radius")
        require_number(self, "space_std", "(0, 1e18]")
        require_number(self, "colour_std", "(0, 1e18]")
        require_choice(self, "colour_distance", ("euclidean", "manhattan"))


def filter_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: BilateralConfig
) -> Float[Array, "h w c"]:
    r"""Averages each pixel with those near to it in place and in colour.

    .. math:: y_p = \frac{\sum_q w_{pq} x_q}{\sum_q w_{pq}}, \quad
        w_{pq} = \exp\left(-\frac{|p - q|^2}{2 \sigma_d^2}
        - \frac{|x_p - x_q|^2}{2 \sigma_r^2}\right)

    over the pixels q at most `radius` from p, all channels together. The image is
    padded with its mirrored pixels, without repeating the edge, as in OpenCV.

    Not random. Differentiable.

    References:
        Tomasi and Manduchi 1998, "Bilateral filtering for gray and color images".
    """
    del key
    radius = config.radius
    span = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(span, span, indexing="ij"), -1).reshape(-1, 2)
    squared = (offsets**2).sum(-1)
    offsets, squared = offsets[squared <= radius**2], squared[squared <= radius**2]
    closeness = jnp.asarray(np.exp(-squared / (2 * config.space_std**2)), image.dtype)
    around = jnp.pad(image, ((radius, radius), (radius, radius), (0, 0)), "reflect")

    def add(sums: _Pair, one: _Pair) -> tuple[_Pair, None]:
        (dy, dx), close = one
        shifted = jax.lax.dynamic_slice(
            around, (dy + radius, dx + radius, 0), image.shape
        )
        difference = shifted - image
        channels = jnp.moveaxis(difference, -1, 0)[..., None]
        if config.colour_distance == "euclidean":
            distance = sum(channel**2 for channel in channels)
        else:
            distance = sum(jnp.abs(channel) for channel in channels) ** 2
        weight = close * jnp.exp(-distance / (2 * config.colour_std**2))
        return (sums[0] + weight * difference, sums[1] + weight), None

    nothing = (jnp.zeros_like(image), jnp.zeros_like(image[..., :1]))
    (total, weight), _ = jax.lax.scan(add, nothing, (jnp.asarray(offsets), closeness))
    return image + total / weight


filter_bilateral = per_image(filter_one)
