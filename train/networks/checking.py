"""Checks a network that was made elsewhere, and names a fault in one line.

A network takes float32 images NHWC in [0, 1] and returns a logit for each class. One
written for another convention returns numbers all the same, and no error. So it is
tried on clean images in this convention and in the other usual ones.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from train.data.loading import Dataset
from train.networks.imported import explained
from train.utils.errors import UserError

# Enough to tell 93 % from 10 %, and few enough to take no time.
CHECKED = 256
BATCH = 64  # images at a time
# How much better another convention must do to be the one that was meant.
MARGIN = 0.15
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
Function = Callable[[jax.Array], Any]


def _normalized(mean: tuple[float, ...], std: tuple[float, ...]) -> Function:
    return lambda images: (images - jnp.array(mean)) / jnp.array(std)


# A convention the function may expect -> images in [0, 1] converted to it.
CONVENTIONS: Mapping[str, Function] = {
    "pixels from 0 to 255": lambda images: images * 255,
    "pixels from -1 to 1": lambda images: images * 2 - 1,
    "pixels normalised as ImageNet's": _normalized(*_IMAGENET),
    "pixels normalised as CIFAR-10's": _normalized(*_CIFAR),
}
_NCHW = "images in the order NCHW"


def to_nchw(images: jax.Array) -> jax.Array:
    """Images NHWC in the order that PyTorch has them."""
    return images.transpose(0, 3, 1, 2)


def check(name: str, function: Function, source: str, dataset: Dataset) -> dict:
    """Tries a network on clean images.

    Args:
        name: of the network, for messages.
        function: images to logits.
        source: the file of its code.
        dataset: labelled images; the first `CHECKED` are used, in full batches.

    Returns:
        For the record: how many images, how many correct, and the accuracy.

    Raises:
        UserError: if it does not return finite logits of these classes, expects images
            in another convention, or is no better than chance.
    """
    count = min(CHECKED, len(dataset.images))
    count -= count % min(BATCH, count)
    images = jnp.asarray(dataset.images[:count], jnp.float32) / 255
    labels = dataset.labels[:count]
    classes = len(dataset.class_names)
    logits = check_logits(name, function, source, images)
    if logits.shape[1] != classes:
        raise UserError(
            f"{name} returns {logits.shape[1]} logits an image; {dataset.name} has "
            f"{classes} classes"
        )
    correct = int((logits.argmax(axis=1) == labels).sum())
    accuracy = correct / count
    found = f"{name} is right on {accuracy:.1%} of {count} clean images"
    best, meant = _another_convention(name, function, images, labels)
    better = scipy.stats.binom.sf(best - 1, count, (correct + 1) / (count + 2)) < 0.01
    if better and best / count > accuracy + MARGIN:
        raise UserError(
            f"{found}, and on {best / count:.1%} given {meant}; give a function of "
            "images NHWC in [0, 1], which does this itself"
        )
    # A few images prove nothing.
    tells = classes ** -float(count) < 0.01
    if tells and scipy.stats.binom.sf(correct - 1, count, 1 / classes) > 0.01:
        raise UserError(
            f"{found}, which is chance: are its images NHWC in [0, 1], its classes in "
            f"the order of {dataset.name} ({', '.join(dataset.class_names[:3])}, ...) "
            "and its weights trained?"
        )
    return {"count": count, "correct": correct, "accuracy": accuracy}


def check_logits(
    name: str, function: Function, source: str, images: jax.Array
) -> np.ndarray:
    """Returns the logits ``[n, classes]`` of some images.

    Raises:
        UserError: if these are none, or one image's depend on the others.
    """
    count = min(BATCH, len(images))
    try:
        outline = jax.eval_shape(_plain(name, function), images[:BATCH])
    except UserError:
        raise
    except Exception as error:
        if _accepts(function, jax.eval_shape(to_nchw, images)):
            raise UserError(
                f"{name} takes {_NCHW}; it must take NHWC, that is transpose them "
                "itself: images.transpose(0, 3, 1, 2)"
            ) from error
        raise UserError(
            f"{name} fails on images float32 {[count, *images.shape[1:]]}: "
            f"{explained(error, source)}"
        ) from error
    is_array = isinstance(outline, jax.ShapeDtypeStruct)
    if not is_array or len(outline.shape) != 2 or outline.shape[0] != count:
        kind = type(outline).__name__
        if is_array:
            kind = f"{outline.dtype.name} {list(outline.shape)}"
        raise UserError(
            f"{name} returns {kind} for {count} images; it must return logits "
            f"[{count}, classes]"
        )
    if not jnp.issubdtype(outline.dtype, jnp.floating):
        raise UserError(f"{name} returns {outline.dtype.name}; logits are floats")
    run = jax.jit(_plain(name, function))
    try:
        logits = _logits(run, images)
    except Exception as error:
        raise UserError(f"{name} fails: {explained(error, source)}") from error
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{name} returns logits that are not finite for {(~finite).sum()} of "
            f"{len(images)} images"
        )
    if logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        raise UserError(
            f"{name} returns probabilities; it must return logits, without the "
            "softmax, which hides the gradient from attacks"
        )
    half = count // 2
    mixed = np.asarray(run(images[:count].at[half:].set(0)), np.float32)
    if (
        half
        and np.abs(mixed[:half] - logits[:half]).max() > 1e-2 * np.abs(logits).max()
    ):
        raise UserError(
            f"{name}: an image's logits depend on the others in its batch; evaluate "
            "BatchNorm with the statistics of training"
        )
    return logits


def _logits(run: Function, images: jax.Array) -> np.ndarray:
    """The logits, batch by batch, so that large images have room."""
    starts = range(0, len(images), BATCH)
    found = [np.asarray(run(images[i : i + BATCH]), np.float32) for i in starts]
    return np.concatenate(found)


def _plain(name: str, function: Function) -> Function:
    """The function; calling it raises a `UserError` if it returns a function."""

    def call(images: jax.Array) -> Any:
        logits = function(images)
        if callable(logits) and not isinstance(logits, jax.Array):
            raise UserError(
                f"{name} names a factory, since it returns a function; give its weights"
            )
        return logits

    return call


def _accepts(function: Function, outline: jax.ShapeDtypeStruct) -> bool:
    try:
        found = jax.eval_shape(function, outline)
    except Exception:
        return False
    return getattr(found, "ndim", 0) == 2


def _another_convention(
    name: str, function: Function, images: jax.Array, labels: np.ndarray
) -> tuple[int, str]:
    """The number of correct predictions in the best other convention, and its name."""
    run = jax.jit(_plain(name, function))
    changed = {name: change(images) for name, change in _fitting(images).items()}
    if _accepts(function, jax.eval_shape(to_nchw, images)):
        changed[_NCHW] = to_nchw(images)
    found = []
    for name, pixels in changed.items():
        logits = _logits(run, pixels)
        found.append((int((logits.argmax(axis=1) == labels).sum()), name))
    return max(found)


def _fitting(images: jax.Array) -> Mapping[str, Function]:
    """The conventions for images of that many channels."""
    if images.shape[-1] == 3:
        return CONVENTIONS
    return {name: f for name, f in CONVENTIONS.items() if "normalised" not in name}
