"""Attacked images as 8-bit files store them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from attacks import (
    Attacked,
    carlini_wagner,
    deepfool,
    fab_minimal,
    judge,
    norms,
    quantized,
)
from attacks.quantized import on_levels
from attacks.soundness import check_ball

KEY = jax.random.key(0)
COUNT = 24


def to_levels(images):
    return np.round(np.asarray(images, np.float64) * 255)


def saved_and_read(images):
    """The images after writing them as PNG and reading them."""
    return to_levels(images).astype(np.uint8).astype(np.float32) / 255


@functools.cache
def some():
    """8-bit images, and the network's predictions for them."""
    images, _ = networks.data(COUNT, seed=5)
    images = jnp.asarray(saved_and_read(images))
    return images, networks.network()(images, KEY).argmax(axis=1)


MINIMAL = {
    "deepfool": lambda *inputs: deepfool(*inputs, norm="linf"),
    "carlini_wagner": lambda *inputs: (
        carlini_wagner(
            *inputs, confidence=0.0, steps=100, learning_rate=0.02
        ).unconstrained
    ),
    "fab_minimal": lambda *inputs: fab_minimal(*inputs, steps=15).attacked,
}


@pytest.mark.parametrize("name", MINIMAL)
def test_minimal_perturbations_survive_an_8_bit_file(name):
    network, (images, labels) = networks.network(), some()
    attack = jax.jit(functools.partial(MINIMAL[name], network))
    attacked = attack(images, labels, KEY)
    assert attacked.success.all()
    # Rounding to the nearest multiples alone undoes part of the attack.
    judged = judge(network, jnp.asarray(saved_and_read(attacked.images)), labels, KEY)
    assert judged.accuracy.mean() > 0.1
    found = jax.jit(functools.partial(quantized, network))(
        attacked, images, labels, KEY
    )
    assert found.success.all()
    read = saved_and_read(found.images)
    np.testing.assert_array_equal(read, found.images)
    assert judge(network, jnp.asarray(read), labels, KEY).accuracy.max() == 0
    # The perturbation grows by a few percent.
    size = functools.partial(norms.size, norm="l2")
    longer = size(found.images - images) / size(attacked.images - images)
    assert 1 < longer.mean() < 1.06
    asked = found.queries - attacked.queries
    assert asked.min() == 2 and 3 <= asked.max() <= 7


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 8 / 255), ("linf", 0.05), ("l2", 0.8), ("l1", 9.0)]
)
def test_rounded_images_stay_in_the_ball(norm, epsilon):
    images, _ = some()
    keys = jax.random.split(KEY, COUNT)
    random = norms.random_in_ball(keys, images, epsilon, norm)
    # Corners for L-infinity, for the others points on the ball's surface.
    far = norms.project(
        images + 9 * epsilon * jnp.sign(random - images), images, epsilon, norm
    )
    rounded = jax.jit(functools.partial(on_levels, norm=norm))
    for start, threshold in itertools.product((random, far), (0.5, 1e-3)):
        found = rounded(start, images, epsilon=epsilon, threshold=threshold)
        np.testing.assert_array_equal(found, saved_and_read(found))
        assert not check_ball(found, images, epsilon, norm).tripped
        steps = to_levels(found) - to_levels(images)
        way = np.asarray(start - images)
        assert (steps * way >= 0).all()
    if norm == "linf":
        # The whole ball is used, although 8/255 is rounded as a float.
        most = np.abs(steps[(images > 0.1) & (images < 0.9)])
        assert (most == np.floor(epsilon * 255 + 1e-4)).all()


def test_pixels_go_to_the_nearest_multiple_inside_and_outwards_if_told():
    clean = np.array([100, 100, 100, 100, 0, 255.0]) / 255
    moved = np.array([100.4, 100.6, 97.8, 107.9, 0.3, 254.4]) / 255

    def levels(**options):
        arrays = (jnp.array(x.reshape(1, 1, 6, 1), jnp.float32) for x in (moved, clean))
        return to_levels(on_levels(*arrays, **options)).ravel().tolist()

    assert levels() == [100, 101, 98, 108, 0, 254]
    assert levels(threshold=1e-3) == [101, 101, 97, 108, 1, 254]
    assert levels(epsilon=7.95 / 255) == [100, 101, 98, 107, 0, 254]
    assert levels(epsilon=0.5 / 255) == [100, 100, 100, 100, 0, 255]
    assert levels(epsilon=0, threshold=1e-3) == [100, 100, 100, 100, 0, 255]


def test_a_ball_without_a_multiple_gives_the_nearest_one():
    clean = jnp.full((1, 2, 2, 1), 100.4 / 255)
    for norm in norms.NORMS:
        found = on_levels(clean + 0.1 / 255, clean, epsilon=0.2 / 255, norm=norm)
        np.testing.assert_array_equal(to_levels(found), 100)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_fewer_bits_keep_the_levels_apart(dtype):
    levels = np.arange(256).reshape(1, 16, 16, 1)
    images = jnp.asarray(levels / 255, dtype)
    for other in (images, jnp.clip(images + jnp.asarray(0.3 / 255, dtype), 0, 1)):
        found = on_levels(other, images, epsilon=0.4 / 255)
        assert found.dtype == dtype
        np.testing.assert_array_equal(to_levels(found), levels)


def bright(threshold):
    """Two classes, dark and light, with the boundary at the threshold."""

    def logits_fn(images, key):
        light = images.mean(axis=(1, 2, 3)) - threshold
        return jnp.stack([-light, light], axis=1)

    return logits_fn


def at(level, count=1):
    return np.full((count, 4, 4, 1), level / 255, np.float32)


def as_found(images):
    """The result of an attack with three queries, one not finite."""
    whole = jnp.full(len(images), 3, jnp.int32)
    return Attacked(jnp.asarray(images), whole > 0, 1.0 * whole, whole, whole - 2)


def test_lost_successes_are_reported():
    labels = jnp.ones(1, int)
    # The boundary lies between the last multiple in the ball and the ball's edge.
    attack = functools.partial(
        quantized, bright(99.8 / 255), as_found(at(99.7)), at(100), labels, KEY
    )
    assert attack().success.all()
    found = attack(epsilon=0.4 / 255)
    assert not found.success.any() and found.loss < 0
    np.testing.assert_array_equal(found.images, at(100))
    # A query for every rounding, and one for the final evaluation.
    assert found.queries == 3 + 6 + 1 and found.not_finite == 1


def test_targets_are_predicted():
    labels, targets = jnp.ones(1, int), jnp.zeros(1, int)
    attack = functools.partial(quantized, bright(99.3 / 255), as_found(at(99.2)))
    found = attack(at(100), labels, KEY, targets=targets)
    assert found.success.all()
    np.testing.assert_array_equal(to_levels(found.images), 99)
    assert not attack(at(100), labels, KEY, targets=labels).success.any()


def test_nan_logits_are_no_success_if_another_rounding_is():
    moved = at(100)
    moved[:, :2], moved[:, 2:] = 98.8 / 255, 98.4 / 255  # nearest: 99 and 98
    found = quantized(
        lambda images, key: jnp.where(
            (images.max(axis=(1, 2, 3)) * 255 > 98.5)[:, None],
            jnp.nan,
            bright(99.3 / 255)(images, key),
        ),
        as_found(moved),
        at(100),
        jnp.ones(1, int),
        KEY,
    )
    assert found.success.all() and found.not_finite[0] > 1
    np.testing.assert_array_equal(to_levels(found.images), 98)


def test_refuses_invalid_arguments():
    inputs = bright(0.5), as_found(at(99)), at(100), jnp.ones(1, int), KEY
    with pytest.raises(ValueError, match="epsilon must be finite"):
        quantized(*inputs, epsilon=-1)
    with pytest.raises(ValueError, match="norm must be"):
        quantized(*inputs, norm="l3")
    with pytest.raises(ValueError, match="evaluations must be at least 1"):
        quantized(*inputs, evaluations=0)
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        quantized(inputs[0], as_found(at(300)), *inputs[2:])
