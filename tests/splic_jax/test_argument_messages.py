"""What is no image, matrix or key is refused in words that name it, by every function.

As a user has it, without the type checks that the tests run under.
"""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import splic_jax
from splic_jax import certificate
from splic_jax.transforms import METHODS, AblationConfig, fitted

IMAGES = np.full((2, 4, 4, 3), 0.5, np.float32)
MATRIX, MASK = np.eye(4, dtype=np.float32), np.eye(4, dtype=bool)
KEY = jax.random.key(0)


def certify(**arguments):
    ablate, deltas = certificate.ablation_of(AblationConfig(), (4, 4))
    arguments = {"ablate": ablate, "deltas": deltas, **arguments}
    return certificate.certify(lambda images: images[:, 0, 0], **arguments)


OF_IMAGES = {
    f"transform, {name}": functools.partial(splic_jax.transform, config=method.config)
    for name, method in METHODS.items()
} | {"purify": splic_jax.purify, "certify": certify}
OF_MATRIX_AND_MASK = {
    "complete": splic_jax.complete,
    "complete_alternating": splic_jax.complete_alternating,
}
OF_MATRIX = {
    "objective": functools.partial(splic_jax.objective, delta=1.0),
    "smoothed_rank": functools.partial(splic_jax.smoothed_rank, delta=1.0),
    "smoothed_rank_gradient": functools.partial(
        splic_jax.smoothed_rank_gradient, delta=1.0
    ),
    "total_variation": splic_jax.total_variation,
    "total_variation_gradient": splic_jax.total_variation_gradient,
}
OF_TRAINING_IMAGES = {
    name: functools.partial(fitted, method.config)
    for name, method in METHODS.items()
    if method.fit
}

LIST = ([[0.5, 0.5], [0.5, 0.5]], TypeError, "must be an array .* type list")
IMAGE_CASES = {
    "list": LIST,
    "number": (0.5, TypeError, "must be an array .* type float"),
    "matrix": (IMAGES[0, :, :, 0], ValueError, r"must be \[n, h, w, c\].*\(4, 4\)"),
    "batches": (IMAGES[None], ValueError, r"must be \[n, h, w, c\].*\(1, 2, 4, 4, 3\)"),
}
MATRIX_CASES = {
    "list": LIST,
    "row": (MATRIX[0], ValueError, r"matrix of floats, got float32\[4\]"),
    "whole": (MATRIX.astype(int), ValueError, r"matrix of floats, got int64\[4, 4\]"),
    "bytes": (MATRIX.astype(np.uint8), ValueError, r"of floats, got uint8\[4, 4\]"),
}
MASK_CASES = {
    "list": (MASK.tolist(), TypeError, "^mask must be an array .* type list"),
    "shape": (MASK[:3], ValueError, r"of the same shape, got \(4, 4\) and \(3, 4\)"),
    "floats": (MATRIX, ValueError, r"^mask must be boolean, got float32\[4, 4\]"),
}
KEY_CASES = {
    "int": (0, TypeError, "of jax.random.key, got a value of type int"),
    "none": (None, TypeError, "got a value of type NoneType"),
    "numpy": (np.zeros(2, np.uint32), TypeError, "of jax.random.key"),
    "old": (jax.random.key_data(KEY), TypeError, r"got uint32\[2\]; .*wrap_key_data"),
    "two": (
        jax.random.split(KEY),
        ValueError,
        r"a single key, got keys of shape \(2,\)",
    ),
}


@pytest.fixture(autouse=True)
def as_a_user():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def refuses(call, cases, argument, **arguments):
    """Every value in the argument's place is refused with the words for it."""
    for value, error, message in cases.values():
        with pytest.raises(error, match=f"^{argument}\\b.* must be ") as raised:
            call(**{**arguments, argument: value})
        assert raised.match(message), value


@pytest.mark.parametrize("name", OF_IMAGES)
def test_what_is_no_image_or_key_is_named(name):
    refuses(OF_IMAGES[name], IMAGE_CASES, "images", key=KEY)
    refuses(OF_IMAGES[name], KEY_CASES, "key", images=IMAGES)


@pytest.mark.parametrize("name", sorted(OF_IMAGES.keys() - {"certify"}))
def test_what_are_no_indices_is_named(name):
    for value, error, message in (
        ([0, 1], TypeError, "indices must be an array .* type list"),
        (np.arange(3), ValueError, r"indices must have shape \(2,\), got \(3,\)"),
        (np.ones(2), ValueError, r"indices must be integers, got float64\[2\]"),
    ):
        with pytest.raises(error, match=message):
            OF_IMAGES[name](IMAGES, KEY, indices=value)


@pytest.mark.parametrize("name", OF_MATRIX_AND_MASK)
def test_what_is_no_matrix_or_mask_is_named(name):
    call = OF_MATRIX_AND_MASK[name]
    refuses(call, MATRIX_CASES, "matrix", mask=MASK)
    for value, error, message in MASK_CASES.values():
        with pytest.raises(error, match=message):
            call(MATRIX, value)


@pytest.mark.parametrize("name", OF_MATRIX)
def test_what_is_no_matrix_is_named(name):
    refuses(OF_MATRIX[name], MATRIX_CASES, "x")


def test_what_no_mask_can_be_drawn_from_is_named():
    draw = functools.partial(splic_jax.sample_mask, shape=(4, 4, 3))
    refuses(draw, KEY_CASES, "key")
    for shape in ((4, 4), 16):
        with pytest.raises((ValueError, TypeError), match="^shape must be .height, wi"):
            splic_jax.sample_mask(KEY, shape)


@pytest.mark.parametrize("name", OF_TRAINING_IMAGES)
def test_what_nothing_can_be_learned_from_is_named(name):
    fit = OF_TRAINING_IMAGES[name]
    few = {name: case for name, case in IMAGE_CASES.items() if name != "batches"}
    refuses(fit, few, "training_images", key=KEY)
    refuses(fit, KEY_CASES, "key", training_images=np.zeros((1, 16, 16, 3)))


def test_what_no_certificate_can_be_made_of_is_named():
    _, deltas = certificate.ablation_of(AblationConfig(), (4, 4))
    for value, error, message in (
        (deltas.tolist(), TypeError, "deltas must be an array .* type list"),
        (deltas[:-1], ValueError, r"deltas must be 17 .* got float64\[16\]"),
    ):
        with pytest.raises(error, match=message):
            certify(images=IMAGES, key=KEY, deltas=value)
    with pytest.raises(TypeError, match="deltas must be an array .* type list"):
        certificate.radius_of(0.9, 0.1, deltas.tolist())
    for value, error, message in (
        ([3, 4], TypeError, "votes must be an array .* type list"),
        (np.ones(3), ValueError, r"votes must be one integer .*float64\[3\]"),
        (np.ones((1, 3), int), ValueError, r"votes must be .*int64\[1, 3\]"),
    ):
        with pytest.raises(error, match=message):
            certificate.predict(value)
        with pytest.raises(error, match=message):
            certificate.share_bounds(value, 0, 10, 0.05)


def test_traced_values_are_told_apart_alike():
    with pytest.raises(ValueError, match=r"^x must be .* got float32\[4\]"):
        jax.jit(splic_jax.total_variation)(jnp.ones(4))
    with pytest.raises(TypeError, match=r"^key must be .* got int32\[\]"):
        jax.jit(splic_jax.purify)(IMAGES, 0)
