import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import linear, some_images

from attacks.sparse_rs import _exchanged, sparse_rs

CLASSES = 3
SHAPE = (4, 4, 3)


def linear_model(shape=SHAPE, lead=0.0):
    """Logits and their float64 weights; class 0 leads by `lead`."""
    logits_fn, weights = linear(shape, CLASSES)
    bias = np.array([lead, 0, 0])
    biased = lambda images, key: logits_fn(images, key) + bias.astype(np.float32)
    return biased, weights, bias


def lead_of_others(logits, labels):
    own = np.arange(logits.shape[-1]) == labels
    return np.where(own, -np.inf, logits).max(axis=-1) - logits[own]


@functools.cache
def one_pixel_attack():
    logits_fn, _, _ = linear_model(lead=50.0)
    return jax.jit(functools.partial(sparse_rs, logits_fn, pixels=1, queries=2000))


def test_one_pixel_is_the_best_of_all_pixels_and_colours():
    _, weights, bias = linear_model(lead=50.0)
    images, labels = some_images(3, SHAPE), np.zeros(3, int)
    attacked = one_pixel_attack()(images, labels, jax.random.key(0))
    for image, found, loss in zip(images, attacked.images, attacked.loss, strict=True):
        best = -np.inf
        for row, column in np.ndindex(4, 4):
            for colour in itertools.product([0, 1], repeat=3):
                tried = image.astype(np.float64)
                tried[row, column] = colour
                value = lead_of_others(tried.ravel() @ weights + bias, 0)
                if value > best:
                    best, best_image = value, tried
        np.testing.assert_array_equal(found, best_image.astype(np.float32))
        np.testing.assert_allclose(loss, best, atol=1e-4)
    np.testing.assert_array_equal(attacked.queries, [2001] * 3)
    np.testing.assert_array_equal(attacked.success, [False] * 3)


def test_an_image_does_not_depend_on_its_batch():
    images, labels = some_images(3, SHAPE), np.zeros(3, int)
    logits_fn, _, _ = linear_model()
    # Too few queries to reach the optimum, which all searches would find.
    attack = functools.partial(sparse_rs, logits_fn, pixels=5, queries=20)
    attack = functools.partial(jax.jit(attack), key=jax.random.key(4))
    batch = attack(images, labels, first_index=0)
    for i in range(3):
        alone = attack(images[i : i + 1], labels[i : i + 1], first_index=i)
        np.testing.assert_array_equal(alone.images[0], batch.images[i])
        assert alone.queries[0] == batch.queries[i]
    others = np.ones_like(images)
    others[0] = images[0]
    np.testing.assert_array_equal(
        attack(others, labels, first_index=0).images[0], batch.images[0]
    )
    moved = attack(images, labels, first_index=1)
    assert not np.array_equal(moved.images[0], batch.images[0])


@pytest.mark.parametrize(("pixels", "alpha"), [(40, 0.3), (7, 0.8), (120, 1.0)])
@pytest.mark.parametrize("queries", [50, 5000, 20_000])
def test_schedule_is_the_published_one(pixels, alpha, queries):
    def divisor(index):
        index = int(index / queries * 10_000)
        table = ((0, 1), (50, 2), (200, 4), (500, 5), (1000, 6), (2000, 8))
        for border, value in (*table, (4000, 10), (6000, 12), (8000, 15)):
            if index <= border:
                return value
        return 20

    found = _exchanged(pixels, queries, alpha, 1024)
    expected = [max(int(alpha / divisor(i) * pixels), 1) for i in range(1, queries)]
    np.testing.assert_array_equal(found[1:], expected)
    assert found[0] == 0  # the start is queried unchanged


def test_exchanges_at_most_the_remaining_pixels():
    assert _exchanged(14, 100, 1.0, 16).max() == 2


def test_changes_few_pixels_to_corners_and_stops_at_the_first_error():
    shape = (3, 7, 2)
    asked = []
    logits_fn, _, _ = linear_model(shape, lead=14.2)

    def counted(images, key):
        jax.debug.callback(lambda x: asked.append(np.asarray(x)), images)
        return logits_fn(images, key)

    attack = jax.jit(
        functools.partial(
            sparse_rs, counted, pixels=4, queries=30, restarts=2, evaluations=2
        )
    )
    # Several evaluations imply a random classifier: the budget is used up.
    images, labels = some_images(1, shape), np.zeros(1, int)
    attacked = jax.block_until_ready(attack(images, labels, jax.random.key(0)))
    jax.effects_barrier()
    assert len(asked) == attacked.queries[0] == 62
    for seen in asked:
        changed = (seen[0] != images[0]).any(axis=-1)
        assert 1 <= changed.sum() <= 4
        assert set(np.unique(seen[0][changed])) <= {0.0, 1.0}
    losses = [lead_of_others(np.asarray(logits_fn(x, None))[0], 0) for x in asked[:60]]
    np.testing.assert_allclose(attacked.loss[0], max(losses), atol=1e-5)

    asked.clear()
    attack = jax.jit(functools.partial(sparse_rs, counted, pixels=4, queries=200))
    attacked = jax.block_until_ready(attack(images, labels, jax.random.key(1)))
    jax.effects_barrier()
    wrong = [np.asarray(logits_fn(x, None)).argmax() != 0 for x in asked]
    assert wrong.index(True) > 0
    assert attacked.queries[0] == len(asked) == wrong.index(True) + 2
    np.testing.assert_array_equal(asked[-1], attacked.images)
    assert attacked.success[0]


def test_targets_are_reached():
    logits_fn, _, _ = linear_model()
    images, labels, targets = some_images(2, SHAPE), np.array([0, 1]), np.array([2, 0])
    attack = functools.partial(sparse_rs, logits_fn, pixels=8, queries=300)
    attacked = jax.jit(attack)(images, labels, jax.random.key(0), targets=targets)
    np.testing.assert_array_equal(attacked.success, [True, True])
    np.testing.assert_array_equal(logits_fn(attacked.images, None).argmax(1), targets)


def test_iterates_with_nan_logits_are_counted_but_not_returned():
    logits_fn, _, _ = linear_model(lead=50.0)

    def holed(images, key):
        hole = (images == 1).sum(axis=(1, 2, 3)) > 8
        return jnp.where(hole[:, None], jnp.nan, logits_fn(images, key))

    images = np.full((2, *SHAPE), 0.5, np.float32)
    images[1, 0] = 1  # few searches leave the NaN region
    images[1, 1] = 1
    attack = jax.jit(functools.partial(sparse_rs, holed, pixels=5, queries=60))
    attacked = attack(images, np.array([0, 0]), jax.random.key(0))
    assert 0 < attacked.not_finite[0] < 60 and np.isfinite(attacked.loss[0])
    assert (np.asarray(attacked.images[0]) == 1).sum() <= 8
    assert attacked.not_finite[1] == 61
    np.testing.assert_array_equal(attacked.images[1], images[1])


def test_no_pixels_return_the_image():
    images, labels = some_images(2, SHAPE), np.array([0, 1])
    attack = jax.jit(functools.partial(sparse_rs, linear_model()[0], pixels=0))
    attacked = attack(images, labels, jax.random.key(0))
    np.testing.assert_array_equal(attacked.images, images)
    np.testing.assert_array_equal(attacked.queries, [1, 1])
