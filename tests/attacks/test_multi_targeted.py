import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import linear, some_images

from attacks.multi_targeted import multi_targeted

CLASSES = 4
SHAPE = (2, 7, 1)


LINEAR, WEIGHTS = linear(SHAPE, CLASSES)


@functools.cache
def linear_attack():
    attack = functools.partial(multi_targeted, LINEAR, steps=5, step_size=0.05)
    return jax.jit(attack)


def test_linear_optimum_over_all_classes():
    # z_t - z_y is largest in the ball's corner along w_t - w_y; the optimum of the
    # margin is the best of these.
    images, labels = some_images(6, SHAPE), np.arange(6) % CLASSES
    for epsilon in (8 / 255, 0.1):
        attacked = linear_attack()(
            images, labels, jax.random.key(0), epsilon=epsilon, first_index=0
        )
        for i, label in enumerate(labels):
            best = -np.inf
            for target in set(range(CLASSES)) - {label}:
                slope = (WEIGHTS[:, target] - WEIGHTS[:, label]).reshape(SHAPE)
                corner = np.clip(images[i] + epsilon * np.sign(slope), 0, 1)
                logits = corner.astype(np.float64).ravel() @ WEIGHTS
                lead = np.delete(logits, label).max() - logits[label]
                if lead > best:
                    best, best_image = lead, corner
            np.testing.assert_allclose(attacked.loss[i], best, atol=1e-5)
            assert attacked.success[i] == (best > 0)
            np.testing.assert_allclose(attacked.images[i], best_image, atol=1e-6)
        result = np.asarray(attacked.images)
        assert result.min() >= 0 and result.max() <= 1
        assert np.abs(result - images).max() <= np.float32(epsilon)
    attacked = linear_attack()(
        images, labels, jax.random.key(0), epsilon=0.0, first_index=0
    )
    np.testing.assert_array_equal(attacked.images, images)


def test_an_image_does_not_depend_on_its_batch():
    images, labels = some_images(6, SHAPE), np.arange(6) % CLASSES
    # Steps too small to reach the optimum, so that the random start matters.
    attack = functools.partial(multi_targeted, LINEAR, steps=2, target_classes=2)
    attack = functools.partial(
        jax.jit(attack), key=jax.random.key(5), step_size=1e-3, epsilon=0.1
    )
    batch = attack(images, labels, first_index=0)
    for i in range(6):
        alone = attack(images[i : i + 1], labels[i : i + 1], first_index=i)
        np.testing.assert_array_equal(alone.images[0], batch.images[i])
        assert alone.success[0] == batch.success[i]
    moved = attack(images, labels, first_index=1)
    assert not np.array_equal(moved.images[0], batch.images[0])


@pytest.mark.parametrize(
    ("target_classes", "found"), [(1, False), (2, True), (9, True)]
)
def test_finds_the_class_that_a_nearer_one_hides(target_classes, found):
    def logits_fn(images, key):
        light = images.mean(axis=(1, 2, 3))
        # Class 1 comes near in the dark and never leads; class 2 leads in the light.
        hidden = 20 * (light - 0.5) - 0.3
        return jnp.stack([0 * light, -0.1 * light, hidden], axis=1)

    attack = functools.partial(
        multi_targeted, logits_fn, target_classes=target_classes, random_start=False
    )
    images = jnp.full((1, 3, 4, 1), 0.5)
    attacked = jax.jit(attack)(images, jnp.array([0]), jax.random.key(0))
    assert bool(attacked.success[0]) is found


def test_counts_its_queries():
    asked = []

    def logits_fn(images, key):
        noise = jax.random.normal(key, (CLASSES,))
        jax.debug.callback(lambda _: asked.append(1), noise[0])
        return LINEAR(images, key) + 0.1 * noise

    attack = jax.jit(
        functools.partial(
            multi_targeted,
            logits_fn,
            steps=3,
            target_classes=2,
            restarts=2,
            eot_samples=3,
            eot_chunk=2,
            evaluations=5,
        )
    )
    attacked = attack(some_images(1, SHAPE), np.array([1]), jax.random.key(0))
    jax.block_until_ready(attacked)
    jax.effects_barrier()
    assert len(asked) == attacked.queries[0] == 3 + 2 * 2 * (5 * 3 + 1) + 5


def test_iterates_with_nan_logits_are_counted_but_not_returned():

    def holed(images, key):
        hole = images[:, 0, 0, 0] > 0.55
        return jnp.where(hole[:, None], jnp.nan, LINEAR(images, key))

    images = np.full((3, *SHAPE), 0.5, np.float32)
    images[1, 0, 0, 0], images[2, 0, 0, 0] = 0.3, 1.0
    attack = functools.partial(multi_targeted, holed, steps=5)
    labels = np.array([0, 0, 0])
    attacked = jax.jit(attack)(images, labels, jax.random.key(3), epsilon=0.1)
    assert np.isfinite(attacked.loss[:2]).all()
    assert np.asarray(attacked.images)[0, 0, 0, 0] <= 0.55
    assert attacked.not_finite[0] > 0 and attacked.not_finite[1] == 0
    assert attacked.not_finite[2] == attacked.queries[2]
    np.testing.assert_array_equal(attacked.images[2], images[2])
