r"""Balls around images, and directions in them, for the norms of attacks.

Every function takes ``norm``, one of `NORMS`, and treats each image of a batch alone.
The ball of radius epsilon around x is intersected with the box [0, 1]. Membership is
exact in floating point: what `project` returns lies in the ball with no tolerance.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PRNGKeyArray, Shaped

from attacks.types import Images

NORMS = ("linf", "l2", "l1")


def size(difference: Images, norm: str) -> Float[Array, " n"]:
    """The norm of each image of a batch, in pixel values."""
    flat = difference.reshape(len(difference), math.prod(difference.shape[1:]))
    if norm == "linf":
        return jnp.abs(flat).max(axis=1, initial=0)
    if norm == "l1":
        return jnp.abs(flat).sum(axis=1)
    # Scaled, so that squares of small numbers do not underflow.
    largest = jnp.abs(flat).max(axis=1, initial=0)
    scale = jnp.where(largest > 0, largest, 1)
    return scale * jnp.sqrt(jnp.sum((flat / scale[:, None]) ** 2, axis=1))


def rounding(images: Images, norm: str) -> float:
    """The most that rounding to the images' dtype adds to the norm of a difference."""
    entries: float = math.prod(images.shape[1:])
    terms = {"linf": 1.0, "l2": math.sqrt(entries), "l1": entries}[norm]
    return float(jnp.finfo(images.dtype).eps) * terms


def per_image(values: Shaped[Array, " n"]) -> Shaped[Array, "n 1 1 1"]:
    """One value per image, shaped to broadcast against the images."""
    return values[:, None, None, None]


def project(images: Images, clean: Images, epsilon: ArrayLike, norm: str) -> Images:
    """Projects images onto the ball around the clean ones and onto [0, 1].

    L-infinity: the nearest point. L2 and L1: the nearest point of the ball, then of the
    box; that stays in the ball, since the clean image lies in the box. Their radius is
    reduced by the rounding error of adding the perturbation to the image.

    Args:
        images: any finite values.
        clean: in [0, 1].
        epsilon: radius in pixel values, >= 0; a scalar or one per image.
        norm: one of `NORMS`.

    Returns:
        Images of the same shape and dtype.
    """
    epsilon = jnp.asarray(epsilon, clean.dtype)
    if norm == "linf":
        return jnp.clip(images, *bounds(clean, epsilon))
    entries = clean[0].size
    grain = jnp.finfo(clean.dtype).eps / 2
    rounding_loss = entries * grain if norm == "l1" else entries**0.5 * grain
    radius = jnp.maximum(epsilon * (1 - 16 * grain) - rounding_loss, 0)
    radius = jnp.broadcast_to(radius, (len(clean),))
    difference = images - clean
    if norm == "l1":
        nearest = jax.vmap(_nearest_in_l1_ball)
        # It divides by the radius; the scaling below handles a radius of 0.
        difference = nearest(difference, jnp.maximum(radius, grain))
    length = size(difference, norm)
    shrink = jnp.where(length > radius, radius / jnp.where(length > 0, length, 1), 1)
    return jnp.clip(clean + difference * per_image(shrink), 0, 1)


def _nearest_in_l1_ball(
    difference: Float[Array, "h w c"], radius: Float[Array, ""]
) -> Float[Array, "h w c"]:
    """`optax.projections.projection_l1_ball`, but in the dtype of its argument."""
    inside = optax.tree.norm(difference, ord=1) <= radius
    # Optax counts in Python ints, which gives float64 where 64-bit types are on.
    surface = optax.projections.projection_l1_sphere(difference, radius)
    return jnp.where(inside, difference, surface.astype(difference.dtype))


def bounds(clean: Images, epsilon: Array) -> tuple[Images, Images]:
    """Bounds of the L-infinity ball in [0, 1], at most epsilon from the image."""
    if epsilon.ndim:
        epsilon = per_image(epsilon)
    lower, upper = clean - epsilon, clean + epsilon
    # Rounding can put a bound outside the ball, by less than one ulp.
    lower = jnp.where(clean - lower > epsilon, jnp.nextafter(lower, clean), lower)
    upper = jnp.where(upper - clean > epsilon, jnp.nextafter(upper, clean), upper)
    return jnp.maximum(lower, 0), jnp.minimum(upper, 1)


def direction(gradient: Images, norm: str) -> Images:
    """The gradient's direction, of norm 1.

    The sign for L-infinity, the normalized gradient for L2 and L1. Entries that are not
    finite count as 0, and the direction of a zero gradient is 0.
    """
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
    if norm == "linf":
        return jnp.sign(gradient)
    length = per_image(size(gradient, norm))
    return jnp.where(length > 0, gradient / jnp.where(length > 0, length, 1), 0)


def random_of_size(
    keys: Key[Array, " n"], clean: Images, sizes: ArrayLike, norm: str
) -> Images:
    """Perturbations of a given norm in random directions.

    Args:
        keys: one for each image.
        clean: the images to be perturbed, of which shape and dtype are used.
        sizes: the norm in pixel values; a scalar or one per image.
        norm: one of `NORMS`.
    """
    draw = jax.random.normal
    if norm == "linf":
        draw = partial(jax.random.uniform, minval=-1, maxval=1)
    drawn = jax.vmap(lambda key: draw(key, clean.shape[1:], clean.dtype))(keys)
    length = size(drawn, norm)
    scale = jnp.asarray(sizes, clean.dtype) / jnp.where(length > 0, length, 1)
    return drawn * per_image(scale)


def random_in_ball(
    keys: Key[Array, " n"], clean: Images, epsilon: ArrayLike, norm: str
) -> Images:
    """Uniform samples from the balls around the clean images, then projected.

    Args:
        keys: one for each image.
        clean: in [0, 1].
        epsilon: radius in pixel values.
        norm: one of `NORMS`.

    Returns:
        Images in [0, 1].
    """
    epsilon = jnp.asarray(epsilon, clean.dtype)
    shape, dtype = clean.shape[1:], clean.dtype

    def draw(key: PRNGKeyArray) -> Array:
        if norm == "linf":
            return jax.random.uniform(key, shape, dtype, -epsilon, epsilon)
        order = 1 if norm == "l1" else 2
        drawn: Array = jax.random.ball(key, clean[0].size, order, (), dtype)
        return epsilon * drawn.reshape(shape)

    return project(clean + jax.vmap(draw)(keys), clean, epsilon, norm)
