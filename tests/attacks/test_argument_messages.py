"""Every attack refuses invalid images, labels and keys by name.

Without the run-time type checks of the other tests, as for a user.
"""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import attacks

IMAGES = np.full((2, 3, 3, 1), 0.5, np.float32)
LABELS = np.array([0, 1])
KEY = jax.random.key(0)


def light(images, key):
    """Logits of four classes."""
    return images.mean(axis=(1, 2, 3))[:, None] * jnp.arange(4.0)


def through_bpda(logits_fn, images, labels, key):
    return attacks.bpda(lambda images, key: images)(images, key)


WITH_TARGETS = {
    name: getattr(attacks, name)
    for name in (
        "fgsm",
        "pgd",
        "mi_fgsm",
        "autopgd",
        "carlini_wagner",
        "spsa",
        "boundary",
    )
} | {
    "sparse_rs": functools.partial(attacks.sparse_rs, pixels=1),
    "transfer": functools.partial(attacks.transfer, light, attack=attacks.fgsm),
}
FUNCTIONS = WITH_TARGETS | {
    name: getattr(attacks, name)
    for name in (
        "multi_targeted",
        "targeted_autopgd",
        "deepfool",
        "fab",
        "fab_minimal",
        "square",
        "autoattack",
        "judge",
        "check_classifier",
        "check_attack",
    )
}
FUNCTIONS |= {
    "check_gradients": attacks.soundness.check_gradients,
    "bpda": through_bpda,
}

IMAGE_CASES = {
    "list": (IMAGES.tolist(), TypeError, "must be an array .* type list"),
    "one image": (IMAGES[0], ValueError, r"must be \[n, h.* float32\[3, 3, 1\]"),
    "bytes": (IMAGES.astype(np.uint8), ValueError, r"got uint8\[2, 3, 3, 1\]"),
}
LABEL_CASES = {
    "list": (LABELS.tolist(), TypeError, "must be an array .* type list"),
    "number": (1, TypeError, "must be an array .* type int"),
    "column": (LABELS[:, None], ValueError, r"must be \[2\] .*int64\[2, 1\]"),
    "too many": (np.arange(3), ValueError, r"must be \[2\] integers.*int64\[3\]"),
    "floats": (LABELS.astype(np.float32), ValueError, r"integers.*float32\[2\]"),
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
CASES = [
    (argument, case, *expected)
    for argument, cases in (
        ("images", IMAGE_CASES),
        ("labels", LABEL_CASES),
        ("key", KEY_CASES),
    )
    for case, expected in cases.items()
]


@pytest.fixture(autouse=True)
def as_a_user():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_invalid_arguments_are_named(name):
    for argument, case, value, error, message in CASES:
        if name == "bpda" and argument == "labels":
            continue
        arguments = {"images": IMAGES, "labels": LABELS, "key": KEY, argument: value}
        call = functools.partial(FUNCTIONS[name], light, **arguments)
        if name == "transfer":
            call = functools.partial(FUNCTIONS[name], target_fn=light, **arguments)
        with pytest.raises(error, match=f"^{argument} must be .*") as raised:
            call()
        assert raised.match(message), (argument, case)


@pytest.mark.parametrize("name", WITH_TARGETS)
def test_targets_are_checked_like_labels(name):
    for case, (value, error, message) in LABEL_CASES.items():
        arguments = {"images": IMAGES, "labels": LABELS, "key": KEY, "targets": value}
        call = functools.partial(WITH_TARGETS[name], light, **arguments)
        if name == "transfer":
            call = functools.partial(WITH_TARGETS[name], target_fn=light, **arguments)
        with pytest.raises(error, match="^targets must be .*") as raised:
            call()
        assert raised.match(message), case


def test_starts_are_checked_like_images():
    for value, error, message in IMAGE_CASES.values():
        with pytest.raises(error, match="^starts must be .*") as raised:
            attacks.boundary(light, IMAGES, LABELS, KEY, starts=value)
        assert raised.match(message)


def test_a_converted_old_style_key_is_accepted():
    key = jax.random.wrap_key_data(jax.random.key_data(KEY))
    found = attacks.judge(light, IMAGES, LABELS, key)
    assert found.accuracy.shape == (2,)


def test_results_of_different_shapes_are_not_compared():
    with pytest.raises(ValueError, match=r"attacked .* images, \(2, .*got \(1, 3"):
        attacks.soundness.check_ball(IMAGES[:1], IMAGES, 0.1)
    with pytest.raises(ValueError, match="accuracy of each image"):
        attacks.soundness.check_steps({0: np.ones(9), 7: np.ones(8)}, 4)
