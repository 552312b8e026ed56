"""Batches that shrink to the images an attack is not done with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import inner_images, linear

import attacks
from attacks import losses, remaining

SHAPE, CLASSES, COUNT = (5, 4, 1), 4, 16
LINEAR, WEIGHTS = linear(SHAPE, CLASSES, middle=0.5, in_order=True)
KEY = jax.random.key(3)
ATTACKS = {
    "square": functools.partial(attacks.square, queries=40),
    "sparse_rs": functools.partial(attacks.sparse_rs, pixels=1, queries=20),
    "autopgd": functools.partial(attacks.autopgd, steps=4, restarts=3),
    "targeted_autopgd": functools.partial(attacks.targeted_autopgd, steps=4),
    "fab": functools.partial(attacks.fab, steps=3, restarts=2),
    "fab-t": functools.partial(attacks.fab, steps=3, target_classes=3),
}


def batch():
    """Images that are misclassified when clean, easily, or never."""
    images, labels, logits = inner_images(COUNT, SHAPE, WEIGHTS)
    order = np.argsort(np.sort(logits, axis=1)[:, -1] - np.sort(logits, axis=1)[:, -2])
    images, labels = images[order[::-1]], labels[order[::-1]]
    labels[[2, 9]] = (labels[[2, 9]] + 1) % CLASSES
    return images, labels


def sizes(logits_fn, count=64, loss=losses.cross_entropy, **options):
    images = jnp.zeros((count, *SHAPE))
    labels = jnp.zeros(count, int)
    return remaining.batch_sizes(logits_fn, loss, (labels,), images, KEY, **options)


@pytest.mark.parametrize("name", ATTACKS)
def test_results_are_those_of_the_whole_batch(name, monkeypatch):
    images, labels = batch()
    options = {"epsilon": 0.02} if name != "sparse_rs" else {}

    def run():
        return jax.jit(functools.partial(ATTACKS[name], LINEAR, **options))(
            images, labels, KEY
        )

    shrunk = run()
    monkeypatch.setattr(remaining, "SMALLEST_BATCH", COUNT)
    whole = run()
    for field in ("success", "queries", "not_finite", "status"):
        np.testing.assert_array_equal(getattr(shrunk, field), getattr(whole, field))
    np.testing.assert_allclose(shrunk.images, whole.images, atol=1e-6)
    np.testing.assert_allclose(shrunk.loss, whole.loss, atol=1e-5)
    assert shrunk.success.any() and len(np.unique(shrunk.queries)) > 1


@pytest.mark.parametrize("name", ["square", "fab-t"])
def test_batches_shrink_once_few_images_are_left(name):
    images, labels = batch()
    asked = []

    def logits_fn(images, key):
        jax.debug.callback(lambda: asked.append(len(images)))
        return LINEAR(images, key)

    # The last four cannot be broken.
    images[4:] = 0.5 + (images[4:] - 0.5) / 1000
    attack = functools.partial(ATTACKS[name], logits_fn, epsilon=0.001)
    attacked = jax.jit(attack)(images, labels, KEY)
    jax.block_until_ready(attacked)
    jax.effects_barrier()
    left = int((~attacked.success).sum())
    assert 0 < left <= 4
    assert set(asked) <= {16, 8, 4}
    assert asked.count(4) > asked.count(16)


def test_independent_images_allow_smaller_batches():
    assert sizes(LINEAR) == (64, 16, 4)
    assert sizes(LINEAR, count=1000) == (1000, 250, 63)
    assert sizes(LINEAR, count=12) == (12,)
    assert sizes(LINEAR, divisors=remaining.QUERY_DIVISORS) == (64, 32, 16, 8, 4)
    inner = jax.jit(lambda images, key: LINEAR(images, key))
    assert sizes(lambda images, key: inner(images, key)) == (64, 16, 4)


@pytest.mark.parametrize("nested", [False, True])
def test_position_dependent_classifiers_need_the_full_batch(nested):
    offset = np.linspace(0, 1, 64, dtype=np.float32)[:, None]

    def uses_its_key(images, key):
        return LINEAR(images, None) + jax.random.normal(key, (len(images), 1))

    def draws(images, key):
        del key
        noise = jax.random.normal(jax.random.key(0), (len(images), 1))
        return LINEAR(images, None) + noise

    def made_for_this_batch(images, key):
        return LINEAR(images, key) + offset

    for logits_fn in (uses_its_key, draws, made_for_this_batch):
        assert sizes(jax.jit(logits_fn) if nested else logits_fn) == (64,)


def test_several_samples_or_a_fixed_size_loss_need_the_full_batch():
    assert sizes(LINEAR, samples=2) == (64,)
    weight = jnp.ones(64)
    weighted = lambda logits, labels: weight * losses.cross_entropy(logits, labels)
    assert sizes(LINEAR, loss=weighted) == (64,)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 16, 17, 64])
def test_on_remaining_matches_the_full_batch(count):
    active = np.zeros(64, bool)
    active[np.random.default_rng(0).permutation(64)[:count]] = True
    x = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    seen = []

    def function(x):
        jax.debug.callback(lambda: seen.append(len(x)))
        return {"double": 2 * x, "sum": x.sum(axis=1)}

    left = remaining.Remaining(jnp.asarray(active), (64, 16, 4))
    found = jax.jit(lambda x: remaining.on_remaining(function, x, left))(x)
    jax.block_until_ready(found)
    jax.effects_barrier()
    np.testing.assert_array_equal(found["double"][active], 2 * x[active])
    np.testing.assert_allclose(found["sum"][active], x[active].sum(axis=1), rtol=1e-6)
    assert seen == [4 if count <= 4 else 16 if count <= 16 else 64]
