"""Projected gradient descent in the L-infinity ball, untargeted.

In short, for a classifier `logits_fn(images, key) -> logits`:

    attack = jax.jit(functools.partial(pgd, logits_fn))     # compile once
    attacked = attack(images, labels, key)
    accuracy = 1 - attacked.success.mean()
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Integer, Num, PRNGKeyArray, Real

from attacks.types import Attacked, LogitsFunction


def pgd(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    step_size: Real[ArrayLike, ""] = 2 / 255,
    steps: int = 7,
    random_start: bool = True,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Attacked:
    r"""Projected gradient descent on the cross-entropy, L-infinity norm.

    .. math::
        x_0 \sim U(B), \qquad
        x_{t+1} = \Pi_B(x_t + \alpha\,\mathrm{sign}\,\nabla_x L(f(x_t), y)),
        \qquad B = \{x' \in [0, 1] : \|x' - x\|_\infty \le \epsilon\}

    The last iterate is returned, as in the paper; it is not always the one of highest
    loss. The result lies in [0, 1] and in the ball as the images' dtype computes it:
    ``abs(attacked.images - images) <= epsilon``, with no rounding on top. Where the
    gradient is zero or NaN the pixel stays where it is, so a classifier without a
    usable gradient is attacked by the random start alone.

    Every step, and the query that judges the result, asks the classifier with a key of
    its own. The random start of an image follows from the key and the image's index,
    so an image's result does not depend on the batch it came in (where the classifier
    itself keeps its images apart).

    Wrap the call in `jax.jit` to compile it once; called without, every call compiles.
    The two agree to rounding: the compiler may fuse a product into the sum after it.
    Nothing is differentiated through the attack: the images come back as constants.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``, differentiable.
        images: floats in [0, 1].
        labels: integers in [0, classes), the classes to move away from.
        key: a key of `jax.random.key`.
        epsilon: radius of the ball in pixel values, images being in [0, 1]; >= 0.
        step_size: alpha, in pixel values; > 0.
        steps: number of gradient steps; >= 0.
        random_start: whether to start uniformly in the ball, or else at the image.
        first_index: index of the first image, for attacking a data set in pieces.

    Returns:
        The attacked images; ``queries`` is ``steps + 1``.

    Raises:
        ValueError: a setting that makes no sense, named; a pixel outside [0, 1] or not
            finite, or a label that names no class, with index and value. Values that
            are being traced (under `jax.jit`) cannot be checked.
        AssertionError: wrong shapes or dtypes.

    References:
        Madry et al. 2018, "Towards deep learning models resistant to adversarial
        attacks", section 2.1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks import pgd
        >>> def brightness(images, key):  # two classes: dark and light
        ...     light = images.mean(axis=(1, 2, 3)) - 0.5
        ...     return jnp.stack([-light, light], axis=1)
        >>> images, labels = jnp.full((1, 8, 8, 3), 0.51), jnp.array([1])
        >>> attacked = pgd(brightness, images, labels, jax.random.key(0))
        >>> print(attacked.success)
        [ True]
        >>> print(f"{jnp.abs(attacked.images - images).max() * 255:.1f}")
        8.0
    """
    _check_settings(epsilon, step_size, steps)
    chex.assert_rank([images, labels], [4, 1])
    chex.assert_type([images, labels], [float, int])
    chex.assert_equal_shape_prefix([images, labels], 1)
    _check_pixels(images)
    images, labels = jax.lax.stop_gradient(jnp.asarray(images)), jnp.asarray(labels)
    start_key, query_key = jax.random.split(key)
    shape = jax.eval_shape(logits_fn, images, query_key).shape
    if len(shape) != 2 or shape[0] != len(images):
        raise ValueError(f"logits_fn returned {shape} for {len(images)} images")
    _check_labels(labels, classes=shape[1])

    epsilon = jnp.asarray(epsilon, images.dtype)
    step_size = jnp.asarray(step_size, images.dtype)
    lower, upper = _bounds(images, epsilon)

    def query(images: Array, step: Array | int) -> tuple[Array, tuple[Array, Array]]:
        logits = logits_fn(images, jax.random.fold_in(query_key, step))
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        # The images do not interact: the gradient of the sum holds that of each.
        return loss.sum(), (loss, logits)

    def step(index: Array, current: Array) -> Array:
        gradient, _ = jax.grad(query, has_aux=True)(current, index)
        direction = jnp.where(jnp.isnan(gradient), 0, jnp.sign(gradient))
        return jnp.clip(current + step_size * direction, lower, upper)

    start = images
    if random_start:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            start_key, first_index + jnp.arange(len(images))
        )
        noise = jax.vmap(
            lambda key: jax.random.uniform(
                key, images.shape[1:], images.dtype, -epsilon, epsilon
            )
        )(keys)
        start = jnp.clip(images + noise, lower, upper)
    attacked = jax.lax.fori_loop(0, steps, step, start)
    attacked = jax.lax.stop_gradient(attacked)

    _, (loss, logits) = query(attacked, steps)
    wrong = (logits.argmax(axis=-1) != labels) | jnp.isnan(logits).any(axis=-1)
    queries = jnp.full(len(images), steps + 1, jnp.int32)
    return Attacked(attacked, wrong, loss, queries)


def _bounds(images: Array, epsilon: Array) -> tuple[Array, Array]:
    """The ball's ends in [0, 1], no further from the image than epsilon as computed."""
    lower, upper = images - epsilon, images + epsilon
    # Rounding can carry an end past the ball, by less than one unit in the last place.
    lower = jnp.where(images - lower > epsilon, jnp.nextafter(lower, images), lower)
    upper = jnp.where(upper - images > epsilon, jnp.nextafter(upper, images), upper)
    return jnp.maximum(lower, 0), jnp.minimum(upper, 1)


def _is_traced(value: object) -> bool:
    return isinstance(value, jax.core.Tracer)


def _check_settings(epsilon: object, step_size: object, steps: int) -> None:
    if not _is_traced(epsilon) and not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be finite and at least 0, got {epsilon}")
    if not _is_traced(step_size) and not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be finite and above 0, got {step_size}")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")


def _check_pixels(images: Array | np.ndarray) -> None:
    if _is_traced(images):
        return
    pixels = np.asarray(images)
    wrong = np.argwhere(~((pixels >= 0) & (pixels <= 1)))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        raise ValueError(f"images{list(index)} is {pixels[index]}, not in [0, 1]")


def _check_labels(labels: Array, classes: int) -> None:
    if _is_traced(labels):
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        index = int(wrong[0])
        raise ValueError(
            f"labels[{index}] is {labels[index]}, but logits_fn knows {classes} "
            f"classes, 0 to {classes - 1}"
        )
