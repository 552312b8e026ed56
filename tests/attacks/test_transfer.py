import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from networks import linear, some_images

from attacks import fgsm, pgd
from attacks.transfer import transfer

CLASSES = 3


def test_crafted_on_one_and_evaluated_on_the_other():
    shape = (2, 6, 1)
    source, weights = linear(shape, CLASSES)
    target, target_weights = linear(shape, CLASSES, seed=7)
    two = lambda images, key: source(images, key)[:, :2]
    images, labels = some_images(8, shape), np.arange(8) % 2
    key = jax.random.key(0)
    through = jax.jit(functools.partial(transfer, two, target, fgsm))
    attacked = through(images, labels, key, epsilon=0.2)
    slopes = (weights[:, 1 - labels] - weights[:, labels]).T.reshape(images.shape)
    expected = np.clip(images + 0.2 * np.sign(slopes), 0, 1)
    np.testing.assert_allclose(attacked.images, expected, atol=1e-6)
    logits = expected.reshape(8, -1).astype(np.float64) @ target_weights
    np.testing.assert_array_equal(attacked.success, logits.argmax(axis=1) != labels)
    loss = -scipy.special.log_softmax(logits, axis=1)[np.arange(8), labels]
    np.testing.assert_allclose(attacked.loss, loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(attacked.queries, [1] * 8)
    np.testing.assert_array_equal(attacked.not_finite, [0] * 8)
    np.testing.assert_array_equal(
        through(images, labels, key, epsilon=0.0).images, images
    )


def test_to_itself_is_the_attack():
    logits_fn, _ = linear((5, 4, 3), CLASSES)
    images, labels = some_images(4, (5, 4, 3)), np.array([0, 1, 2, 0])
    attack = functools.partial(pgd, random_start=False, steps=5)
    key = jax.random.key(0)
    through = jax.jit(functools.partial(transfer, logits_fn, logits_fn, attack))
    alone = jax.jit(functools.partial(attack, logits_fn))
    attacked, direct = (f(images, labels, key) for f in (through, alone))
    np.testing.assert_allclose(attacked.images, direct.images, atol=1e-6)
    np.testing.assert_array_equal(attacked.success, direct.success)
    assert np.abs(np.asarray(attacked.images) - images).max() <= np.float32(8 / 255)


def test_an_image_does_not_depend_on_its_batch():
    logits_fn, _ = linear((3, 4, 3), CLASSES)
    other, _ = linear((3, 4, 3), CLASSES, seed=1)
    images, labels = some_images(3, (3, 4, 3)), np.array([0, 1, 2])
    attack = jax.jit(
        functools.partial(
            transfer, logits_fn, other, pgd, key=jax.random.key(2), step_size=0.005
        )
    )
    batch = attack(images, labels, first_index=0)
    for i in range(3):
        alone = attack(images[i : i + 1], labels[i : i + 1], first_index=i)
        np.testing.assert_array_equal(alone.images[0], batch.images[i])


def test_targets_and_evaluations_apply_to_the_target_classifier():
    logits_fn, _ = linear((3, 4, 3), CLASSES)
    images, labels = some_images(4, (3, 4, 3)), np.array([0, 1, 2, 0])
    targets = np.array([1, 2, 0, 2])

    def unsure(images, key):  # one prediction in ten is the label
        odd = jax.random.bernoulli(key, 0.1)
        return jnp.where(odd, jnp.eye(CLASSES)[labels] * 1e3, logits_fn(images, key))

    through = jax.jit(
        functools.partial(transfer, logits_fn, unsure, pgd, evaluations=25)
    )
    attacked = through(
        images,
        labels,
        jax.random.key(0),
        targets=targets,
        epsilon=0.5,
        step_size=0.1,
    )
    named = np.asarray(logits_fn(attacked.images, None)).argmax(axis=1)
    np.testing.assert_array_equal(attacked.success, named == targets)
    assert attacked.success.any()
    np.testing.assert_array_equal(attacked.queries, [25] * 4)


def test_counts_nan_logits_of_the_target_only():
    logits_fn, _ = linear((3, 4, 3), CLASSES)
    images, labels = some_images(2, (3, 4, 3)), np.array([0, 1])
    silent = lambda images, key: jnp.full((len(images), CLASSES), jnp.nan)
    key = jax.random.key(0)
    through = lambda *models: jax.jit(functools.partial(transfer, *models, pgd))
    attacked = through(logits_fn, silent)(images, labels, key)
    np.testing.assert_array_equal(attacked.not_finite, [1, 1])
    attacked = through(silent, logits_fn)(images, labels, key)
    np.testing.assert_array_equal(attacked.not_finite, [0, 0])


def test_refuses_labels_unknown_to_the_target():
    logits_fn, _ = linear((3, 4, 3), CLASSES)
    two = lambda images, key: logits_fn(images, key)[:, :2]
    images, labels = some_images(1, (3, 4, 3)), np.array([2])
    with pytest.raises(ValueError, match=r"labels\[0\] is 2, .* 0 to 1"):
        transfer(logits_fn, two, pgd, images, labels, jax.random.key(0))
    with pytest.raises(ValueError, match="evaluations must be at least 1, got 0"):
        transfer(
            logits_fn, logits_fn, pgd, images, labels, jax.random.key(0), evaluations=0
        )
