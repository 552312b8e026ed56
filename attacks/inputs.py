"""Checks of the arguments of attacks, and their error messages."""

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
    """Checks the arguments that attacks have in common.

    Traced values (under `jax.jit`) are not checked.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``.
        images: floats in [0, 1].
        labels: integers in [0, classes).
        key: from `jax.random.key`.
        targets: integers in [0, classes), or None.

    Returns:
        Images and labels as arrays, the images under `jax.lax.stop_gradient`; and the
        number of classes.

    Raises:
        TypeError: images or labels that are not arrays, or a key that is not a JAX key.
        ValueError: wrong shapes or dtypes; a pixel not in [0, 1] or a label not in
            [0, classes), with index and value; logits of a wrong shape.
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
            f"logits_fn returned {shape[1]} logits per image, but attacks need at "
            "least 2 classes; for one logit z, return jnp.concatenate([-z, z], axis=1)"
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
    """Refuses what is not a JAX or NumPy array, such as a list."""
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(
            f"{name} must be an array of JAX or NumPy, got {_described(value)}"
        )


def require_images(images: Any, name: str = "images") -> None:
    """Refuses what is not a batch of images; pixel values are not checked."""
    require_array(name, images)
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be [n, h, w, c] floats in [0, 1], got {_described(images)}"
        )


def require_labels(labels: Any, count: int, name: str = "labels") -> None:
    """Refuses what is not `count` integers; their values are not checked."""
    require_array(name, labels)
    if labels.shape != (count,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be [{count}] integers, one per image, got "
            f"{_described(labels)}"
        )


def require_key(key: Any) -> None:
    """Refuses what is not a single key from `jax.random.key`."""
    if not isinstance(key, jax.Array):
        raise TypeError(f"key must be a key of jax.random.key, got {_described(key)}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"key must be a key of jax.random.key, got {_described(key)}; "
            "convert an old-style key by jax.random.wrap_key_data(key)"
        )
    if key.shape:
        raise ValueError(f"key must be a single key, got keys of shape {key.shape}")


def require_same_shape(name: str, value: Any, other_name: str, other: Any) -> None:
    """Refuses arrays of different shapes."""
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
    """Refuses integers below `least`."""
    for name, value in settings.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses a value that is not one of the choices."""
    if value not in choices:
        listed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be {listed}, got {value!r}")


def _described(value: Any) -> str:
    """The dtype and shape of an array, the type of anything else."""
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
            f"{name}[{index}] is {labels[index]}, but logits_fn has {classes} classes, "
            f"0 to {classes - 1}"
        )
