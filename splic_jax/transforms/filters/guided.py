"""The guided filter."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from splic_jax.fields import config, require_choice, require_integer, require_number
from splic_jax.transforms.base import per_image


@config
class GuidedConfig:
    """Settings of `filter_guided`.

    Attributes:
        radius: r, of the square window, in pixels; >= 1.
        epsilon: a window of this variance (of values in [0, 1]) keeps half of its
            contrast; > 0.
        guide: "channel" filters each channel guided by itself; "colour" all guided by
            the colours, by their covariance.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    radius: int = 2
    epsilon: float = 0.1**2
    guide: Literal["channel", "colour"] = "channel"

    def __post_init__(self) -> None:
        require_integer(self, "radius")
        require_number(self, "epsilon", "(0, inf)")
        require_choice(self, "guide", ("channel", "colour"))


def box_mean(values: Float[Array, "h w *rest"], radius: int) -> Float[Array, "..."]:
    """The mean over each pixel's window, cut off at the border of the image."""
    for axis in (0, 1):
        size = values.shape[axis]
        position = np.arange(size)
        last = np.minimum(position + radius, size - 1)
        count = last - np.maximum(position - radius, 0) + 1
        padding = [(0, 0)] * values.ndim
        padding[axis] = (radius, radius)
        padded = jnp.pad(values, padding)
        # Sums of shifts: faster here than differences of a cumulative sum, and these
        # lose digits.
        total = sum(
            jax.lax.slice_in_dim(padded, shift, shift + size, axis=axis)
            for shift in range(2 * radius + 1)
        )
        shape = [1] * values.ndim
        shape[axis] = size
        values = total / jnp.asarray(count.reshape(shape), values.dtype)
    return values


def solve(matrix: list[list[Array]], right: list[list[Array]]) -> list[list[Array]]:
    """Solves a small positive definite linear system for each pixel, by elimination.

    Args:
        matrix: its rows; each entry an array over the pixels.
        right: the rows of the right side.
    """
    rows = [[*left, *rest] for left, rest in zip(matrix, right, strict=True)]
    for pivot in range(len(rows)):
        rows[pivot] = [value / rows[pivot][pivot] for value in rows[pivot]]
        for i in range(len(rows)):
            if i != pivot:
                pairs = zip(rows[i], rows[pivot], strict=True)
                rows[i] = [a - rows[i][pivot] * b for a, b in pairs]
    return [row[len(rows) :] for row in rows]


def filter_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: GuidedConfig
) -> Float[Array, "h w c"]:
    r"""Fits each window as a linear function of the guide, here the image itself.

    In a window of mean :math:`\mu` and covariance :math:`\Sigma` of the colours the fit
    is :math:`A x + b` with

    .. math:: A = (\Sigma + \epsilon I)^{-1} \Sigma, \quad b = \mu - A \mu

    and a pixel's A and b are the mean of those of the windows it lies in; at the border
    windows are cut off. Guided by the channel itself, Sigma is the variance alone.

    Not random. Differentiable.

    References:
        He, Sun and Tang 2013, "Guided image filtering", eq. (5), (6) and (19), (20).
    """
    del key
    # The filter commutes with a shift; without the mean, float32 loses less.
    centre = jnp.mean(image, (0, 1))
    x = image - centre
    mean = box_mean(x, config.radius)
    if config.guide == "channel":
        variance = jnp.maximum(box_mean(x**2, config.radius) - mean**2, 0)
        slope = variance / (variance + config.epsilon)
        shift = mean - slope * mean
        fitted: Array | int = box_mean(slope, config.radius) * x
    else:
        channels = range(image.shape[-1])
        products = box_mean(
            jnp.stack([x[..., i] * x[..., j] for i in channels for j in channels], -1),
            config.radius,
        )
        covariance = [
            [
                products[..., i * len(channels) + j] - mean[..., i] * mean[..., j]
                for j in channels
            ]
            for i in channels
        ]
        regular = [
            [covariance[i][j] + config.epsilon * (i == j) for j in channels]
            for i in channels
        ]
        slopes = [jnp.stack(row, -1) for row in solve(regular, covariance)]
        # Row by row, as Sigma and its inverse are symmetric.
        shift = mean - sum(slopes[j] * mean[..., j, None] for j in channels)
        fitted = sum(
            box_mean(slopes[j], config.radius) * x[..., j, None] for j in channels
        )
    return fitted + box_mean(shift, config.radius) + centre


filter_guided = per_image(filter_one)
