"""Shared parts of the solvers that hold a matrix as one array."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splic_jax.config import SPLICConfig
from splic_jax.layout import small
from splic_jax.objective.total_variation_gradient import total_variation_gradient
from splic_jax.solvers.algorithm1 import ArrayProblem

# A matrix and its mask.
Given = tuple[Float[Array, "m n"], Bool[Array, "m n"]]


def problem_of(given: Given, config: SPLICConfig) -> ArrayProblem:
    """The anchors, zero elsewhere, in the pixel scale of the settings."""
    matrix, mask = given
    anchors = jnp.where(mask, matrix, 0) * config.pixel_scale
    free = 1 - mask.astype(matrix.dtype)
    return ArrayProblem(anchors, free, jnp.ones((), matrix.dtype))


@dataclass(frozen=True)
class OnArrays:
    """A `Solver` of one matrix, without `init` and `step`.

    Attributes:
        config: the settings.
        blocks: number of images side by side in the matrix.
    """

    config: SPLICConfig
    blocks: int = 1

    def finish(self, x: Array, given: Given, unit: Array) -> Array:
        """The iterate in the unit of the pixels, with the input's anchors."""
        matrix, mask = given
        return jnp.where(mask, matrix, x * (unit / self.config.pixel_scale))

    def squared_norm(self, x: Array) -> Array:
        """The sum of squares, without derivative: only the stopping rule uses it."""
        return small.total(small.total(jax.lax.stop_gradient(x) ** 2))


def smooth(cut: Array, descended: Array, config: SPLICConfig, blocks: int) -> Array:
    """The total variation's part of line 11.

    Args:
        cut: the matrix after line 7.
        descended: the cut matrix after the gradient step on the smoothed rank.
        config: the settings.
        blocks: number of images side by side.
    """
    if not config.tv_weight:
        return descended
    return _smoothed(cut, descended, config, blocks)


@partial(small.kernel, static_argnums=(2, 3))
def _smoothed(cut: Array, descended: Array, config: SPLICConfig, blocks: int) -> Array:
    images = cut.reshape(len(cut), blocks, -1)
    gradient = jax.vmap(
        lambda image: total_variation_gradient(image, config.tv_form, config.tv_scales),
        in_axes=1,
        out_axes=1,
    )(images)
    return descended - config.step_size * config.tv_weight * gradient.reshape(cut.shape)
