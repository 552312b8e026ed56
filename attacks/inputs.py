"""What attacks ask of their arguments, and what they say where it is not so."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num, PRNGKeyArray

from attacks.types import LogitsFunction


def checked(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    targets: Num[Array | np.ndarray, " n"] | None = None,
) -> tuple[Array, Array, int]:
    """Checks what can be checked of an attack's arguments.

    Values that are being traced (under `jax.jit`) cannot be.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``.
        images: floats in [0, 1].
        labels: integers in [0, classes).
        key: a key of `jax.random.key`.
        targets: integers in [0, classes), or None.

    Returns:
        Images and labels as arrays, the images as constants to differentiation; and
        the number of classes.

    Raises:
        TypeError: images or labels that are no arrays, or a key that is none.
        ValueError: wrong shapes or dtypes; a pixel outside [0, 1] or not finite, or a
            label that names no class, with index and value; logits of another shape.
    """
    require_images(images)
    require_labels(labels, len(images))
    require_key(key)
    _check_pixels(images)
    images, labels = jax.lax.stop_gradient(jnp.asarray(images)), jnp.asarray(labels)
    shape = jax.eval_shape(logits_fn, images, key).shape
    if len(shape) != 2 or shape[0] != len(images):
        raise ValueError(f"logits_fn returned {shape} for {len(images)} images")
    if shape[1] < 2:
        raise ValueError(
            f"logits_fn returned {shape[1]} logits an image, and attacks need a class "
            "to move to; one logit z becomes two as jnp.concatenate([-z, z], axis=1)"
        )
    _check_classes("labels", labels, shape[1])
    if targets is not None:
        require_labels(targets, len(images), "targets")
        _check_classes("targets", targets, shape[1])
    return images, labels, shape[1]


def is_traced(value: object) -> bool:
    """Whether a value is known only when the compiled program runs."""
    return isinstance(value, jax.core.Tracer)


def require_array(name: str, value: Any) -> None:
    """Refuses what is no array of JAX or NumPy, such as a list."""
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(
            f"{name} must be an array of JAX or NumPy, got {_described(value)}"
        )


def require_images(images: Any, name: str = "images") -> None:
    """Refuses what is no batch of images, whatever its values."""
    require_array(name, images)
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be [n, h, w, c] of floats in [0, 1], got {_described(images)}"
        )


def require_labels(labels: Any, count: int, name: str = "labels") -> None:
    """Refuses what is no class for each of so many images, whatever its values."""
    require_array(name, labels)
    if labels.shape != (count,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be [{count}] of integers, one for each image, got "
            f"{_described(labels)}"
        )


def require_key(key: Any) -> None:
    """Refuses what is not one key of `jax.random.key`."""
    if not isinstance(key, jax.Array):
        raise TypeError(f"key must be a key of jax.random.key, got {_described(key)}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"key must be a key of jax.random.key, got {_described(key)}; "
            "jax.random.wrap_key_data(key) makes one of an old-style key"
        )
    if key.shape:
        raise ValueError(f"key must be one key, got keys of shape {key.shape}")


def require_same_shape(name: str, value: Any, other_name: str, other: Any) -> None:
    """Refuses two that are not of one shape."""
    if np.shape(value) != np.shape(other):
        raise ValueError(
            f"{name} must have the shape of {other_name}, {np.shape(other)}, got "
            f"{np.shape(value)}"
        )


def require_finite(**settings: Any) -> None:
    """Refuses settings that are negative or not finite."""
    for name, value in settings.items():
        if not is_traced(value) and not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {value}")


def require_positive(**settings: Any) -> None:
    """Refuses settings that are 0, negative or not finite."""
    for name, value in settings.items():
        if not is_traced(value) and not 0 < value < math.inf:
            raise ValueError(f"{name} must be finite and above 0, got {value}")


def require_share(**settings: float) -> None:
    """Refuses settings that are not in (0, 1]."""
    for name, value in settings.items():
        if not 0 < value <= 1:
            raise ValueError(f"{name} must be above 0 and at most 1, got {value}")


def require_at_least(least: int, **settings: int) -> None:
    """Refuses whole numbers below `least`."""
    for name, value in settings.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses what is not among the choices."""
    if value not in choices:
        listed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be {listed}, got {value!r}")


def _described(value: Any) -> str:
    """An array by dtype and shape, anything else by its type."""
    if isinstance(value, jax.Array | np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"a value of type {type(value).__name__}"


def _check_pixels(images: Array | np.ndarray) -> None:
    if is_traced(images):
        return
    pixels = np.asarray(images)
    wrong = np.argwhere(~((pixels >= 0) & (pixels <= 1)))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        raise ValueError(f"images{list(index)} is {pixels[index]}, not in [0, 1]")


def _check_classes(name: str, labels: Array | np.ndarray, classes: int) -> None:
    if is_traced(labels):
        return
    labels = np.asarray(labels)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        index = int(wrong[0])
        raise ValueError(
            f"{name}[{index}] is {labels[index]}, but logits_fn knows {classes} "
            f"classes, 0 to {classes - 1}"
        )
