import functools

import jax
import jax.numpy as jnp
import numpy as np

from attacks.losses import margin
from attacks.oracle import Answer, make_goal, query
from attacks.spsa import estimate, spsa

CLASSES = 3


SHAPE = (3, 5, 2)


def linear_model():
    """Two classes that depend on the pixels, and a third that is never predicted."""
    weights = np.random.default_rng(0).normal(size=(np.prod(SHAPE), CLASSES))
    weights[:, 2] = 0

    def logits_fn(images, key):
        flat = images.reshape(len(images), -1)
        logits = jnp.matmul(flat, weights.astype(images.dtype), precision="highest")
        # In steps: a zero gradient, and the same sums for any batch size.
        return jnp.round(logits * 256) / 256 - jnp.array([0, 0, 100.0])

    return logits_fn, weights


@functools.cache
def linear_attack():
    logits_fn, _ = linear_model()
    return jax.jit(functools.partial(spsa, logits_fn, steps=40, samples=32, chunk=12))


def some_images(n, shape=SHAPE, seed=1):
    return np.random.default_rng(seed).random((n, *shape), np.float32)


def counting(logits_fn):
    """The classifier, and a list that grows with each queried image."""
    asked = []

    def counted(images, key):
        # Depends on both, so that each member of a vmap over either is counted.
        mark = images[0, 0, 0, 0] + jax.random.uniform(key)
        jax.debug.callback(lambda _: asked.append(1), mark)
        return logits_fn(images, key)

    return counted, asked


def test_two_classes_reach_the_linear_optimum_without_a_gradient():
    logits_fn, weights = linear_model()
    images, labels, key = some_images(4), np.array([0, 1, 0, 1]), jax.random.key(0)
    slope = jax.grad(lambda x: logits_fn(x, key).sum())(images)
    np.testing.assert_array_equal(slope, 0 * images)
    attacked = linear_attack()(images, labels, key, first_index=0, epsilon=0.1)
    # The margin rises along w_other - w_label everywhere.
    slopes = (weights[:, 1 - labels] - weights[:, labels]).T.reshape(images.shape)
    best = np.clip(images + 0.1 * np.sign(slopes), 0, 1)
    lead = lambda x: np.sum(slopes * np.asarray(x, np.float64), axis=(1, 2, 3))
    np.testing.assert_array_equal(attacked.success, lead(attacked.images) > 0)
    np.testing.assert_allclose(attacked.loss, lead(attacked.images), atol=0.01)
    gained = lead(attacked.images) - lead(images)
    # Gradient entries near 0 are lost in the noise of the estimate, but matter little.
    assert np.all(gained > 0.9 * (lead(best) - lead(images)))


def rising(images, key):
    """Two classes, and a margin that is not linear."""
    flat = images.reshape(len(images), -1) - 0.3
    weights = jnp.linspace(-1, 1, flat.shape[1], dtype=images.dtype)
    value = flat @ weights + 0.7 * jnp.sum(flat**2, axis=1)
    return jnp.stack([jnp.zeros_like(value), value], axis=1)


def test_estimate_is_unbiased_and_its_variance_is_as_derived(x64):
    # g . v v_i is g_i and a sum of g_j v_j v_i, of mean 0 and variance g_j^2: entry i
    # of the mean over m directions has the variance sum_{j != i} g_j^2 / m. This holds
    # for a quadratic too, whose even part cancels in the two-sided difference.
    images = 0.3 + 0.4 * np.random.default_rng(0).random((1, 3, 4, 2))
    gradient = np.linspace(-1, 1, 24) + 1.4 * (images.ravel() - 0.3)
    value = functools.partial(
        query, rising, make_goal(margin, jnp.array([0])), gradient=False
    )

    def one(key):
        return estimate(
            value,
            jnp.asarray(images),
            key[None],
            key,
            samples=64,
            chunk=48,
            delta=0.01,
        )[0]

    runs = 400
    keys = jax.random.split(jax.random.key(3), runs)
    estimates = np.asarray(jax.jit(jax.vmap(one))(keys)).reshape(runs, -1)
    deviation = np.sqrt((np.sum(gradient**2) - gradient**2) / 64)
    error = (estimates.mean(axis=0) - gradient) / (deviation / np.sqrt(runs))
    assert np.abs(error).max() < 4
    ratio = estimates.std(axis=0) / deviation
    assert np.abs(ratio - 1).max() < 0.2
    assert abs(ratio.mean() - 1) < 0.03


def test_estimate_agrees_with_its_formula():
    # In NumPy, from the queried points.
    points = []

    def value(images, key):
        jax.debug.callback(lambda x: points.append(np.asarray(x)), images)
        loss = jnp.sum(images**3, axis=(1, 2, 3))
        return Answer(loss, loss, jnp.isfinite(loss), None, loss[:, None])

    images = jnp.asarray(some_images(2, (2, 3, 1)))
    keys = jax.random.split(jax.random.key(0), 2)
    found, lost = estimate(
        value, images, keys, keys[0], samples=5, chunk=1, delta=0.125
    )
    jax.block_until_ready(found)
    jax.effects_barrier()
    np.testing.assert_array_equal(lost, [0, 0])
    seen = np.unique(np.stack(points).astype(np.float64), axis=0)
    assert len(points) == 10
    expected = np.zeros(images.shape)
    for point in seen:
        move = (point - np.asarray(images)) / 0.125
        np.testing.assert_allclose(np.abs(move), 1, atol=1e-5)
        loss = np.sum(point**3, axis=(1, 2, 3))[:, None, None, None]
        expected += loss * np.round(move) / (2 * 0.125)
    np.testing.assert_allclose(found, expected / 5, rtol=1e-4, atol=1e-4)
    # The two images have different directions.
    assert not np.array_equal(*np.round((seen[0] - np.asarray(images)) / 0.125))


def test_first_step_is_adams():
    # From zero moments Adam moves each entry by learning_rate * g / (|g| + 1e-8).
    logits_fn, _ = linear_model()
    images, labels = some_images(4) / 2 + 0.25, np.array([0, 1, 0, 1])
    attack = jax.jit(functools.partial(spsa, logits_fn, steps=1, samples=8))
    attacked = attack(
        images, labels, jax.random.key(0), learning_rate=0.02, epsilon=0.1
    )
    moved = np.abs(np.asarray(attacked.images) - images)
    before = margin(logits_fn(images, None), jnp.asarray(labels))
    better = np.asarray(attacked.loss > before)
    assert better.any()
    # The logits are rounded, so an estimate may be exactly 0.
    assert np.mean(moved[better] > 0) > 0.9
    np.testing.assert_allclose(moved[better][moved[better] > 0], 0.02, atol=1e-6)
    np.testing.assert_array_equal(moved[~better], 0 * moved[~better])


def test_result_lies_in_the_ball_and_the_box_and_reaches_the_ends():
    images, labels = some_images(4), np.array([0, 1, 0, 1])
    images[0, 0], images[0, 1] = 0, 1
    key = jax.random.key(1)
    for epsilon in (8 / 255, 0.1, 1e-3):
        attacked = linear_attack()(images, labels, key, first_index=0, epsilon=epsilon)
        result = np.asarray(attacked.images)
        assert result.min() >= 0 and result.max() <= 1
        moved = np.abs(result - images).max(axis=(1, 2, 3))
        assert moved.max() <= np.float32(epsilon)
        np.testing.assert_allclose(moved, epsilon, rtol=1e-3)
    attacked = linear_attack()(images, labels, key, first_index=0, epsilon=0.0)
    np.testing.assert_array_equal(attacked.images, images)


def test_an_image_does_not_depend_on_its_batch():
    images, labels = some_images(4), np.array([0, 1, 0, 1])
    attack = functools.partial(linear_attack(), key=jax.random.key(5), epsilon=0.1)
    batch = attack(images, labels, first_index=0)
    for i in range(4):
        alone = attack(images[i : i + 1], labels[i : i + 1], first_index=i)
        np.testing.assert_array_equal(alone.images[0], batch.images[i])
        assert alone.success[0] == batch.success[i]
    others = images.copy()
    others[1:] = 0
    np.testing.assert_array_equal(
        attack(others, labels, first_index=0).images[0], batch.images[0]
    )
    moved = attack(images, labels, first_index=1)
    assert not np.array_equal(moved.images[0], batch.images[0])


def test_counts_its_queries_and_reaches_targets():
    logits_fn, asked = counting(linear_model()[0])
    attack = functools.partial(
        spsa, logits_fn, steps=20, samples=15, chunk=4, eot_samples=2, evaluations=3
    )
    images, labels, targets = some_images(1), np.array([1]), np.array([0])
    attacked = jax.jit(attack)(
        images,
        labels,
        jax.random.key(0),
        epsilon=0.5,
        learning_rate=0.05,
        targets=targets,
    )
    jax.block_until_ready(attacked)
    jax.effects_barrier()
    assert len(asked) == attacked.queries[0] == (20 * 31 + 1) * 2 + 3
    logits = np.asarray(linear_model()[0](attacked.images, None))[0]
    assert attacked.success[0] and logits.argmax() == 0
    np.testing.assert_allclose(attacked.loss, logits[0] - logits[1], rtol=1e-5)


def test_iterates_with_nan_logits_are_counted_but_not_returned():
    logits_fn, _ = linear_model()

    def holed(images, key):
        first, second = images[:, 0, 0, 0], images[:, 0, 0, 1]
        hole = (first > 0.51) | (second > 0.9)
        return jnp.where(hole[:, None], jnp.nan, logits_fn(images, key))

    images = np.full((3, *SHAPE), 0.5, np.float32)
    images[1, 0, 0, 0] = 0.3  # far from the NaN region
    images[2, 0, 0, 1] = 1.0  # inside the NaN region
    attack = jax.jit(functools.partial(spsa, holed, steps=5, samples=16))
    labels, key = np.array([0, 0, 0]), jax.random.key(0)
    attacked = attack(images, labels, key, delta=0.02, epsilon=0.05)
    assert np.isfinite(attacked.images).all() and np.isfinite(attacked.loss[:2]).all()
    # One point of each pair of the first step.
    assert 16 <= attacked.not_finite[0] < 5 * 33 + 2
    np.testing.assert_array_equal(attacked.not_finite[1:], [0, 5 * 33 + 2])
    assert np.asarray(attacked.images)[0, 0, 0, 0] <= 0.51
    np.testing.assert_array_equal(attacked.images[2], images[2])
