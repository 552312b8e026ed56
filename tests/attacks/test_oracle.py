import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attacks import losses, oracle

SHAPE = (3, 2, 4, 1)
LABELS = jnp.array([0, 1, 2])
GOAL = oracle.make_goal(losses.cross_entropy, LABELS)


def random_model(images, key):
    """Random weights for each key."""
    weights = jax.random.normal(key, (8, 3), images.dtype)
    return jnp.sin(3 * images.reshape(len(images), -1)) @ weights


def some_images():
    return jax.random.uniform(jax.random.key(1), SHAPE)


@functools.cache
def single(samples):
    """Explicit float64 results for each of the keys."""
    keys = jax.random.split(jax.random.key(5), samples)
    found = {"loss": [], "wrong": [], "gradient": [], "logits": []}
    images = np.asarray(some_images(), np.float64)
    flat = images.reshape(3, -1)
    for key in keys if samples > 1 else [jax.random.key(5)]:
        weights = np.asarray(jax.random.normal(key, (8, 3)), np.float64)
        logits = np.sin(3 * flat) @ weights
        divisors = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        own = np.arange(3), np.asarray(LABELS)
        found["loss"].append(-np.log(divisors[own]))
        found["wrong"].append(logits.argmax(axis=1) != LABELS)
        slope = divisors.copy()
        slope[own] -= 1
        gradient = 3 * np.cos(3 * flat) * (slope @ weights.T)
        found["gradient"].append(gradient.reshape(images.shape))
        found["logits"].append(logits)
    return {name: np.mean(values, axis=0) for name, values in found.items()}


@pytest.mark.parametrize(("samples", "chunk"), [(1, 1), (5, 2), (6, 3), (4, 8), (7, 4)])
def test_the_mean_over_the_keys(samples, chunk):
    query = functools.partial(
        oracle.query, random_model, GOAL, sampling=oracle.Sampling(samples, chunk)
    )
    both = lambda *question: (query(*question), query(*question, gradient=False))
    answer, without = jax.jit(both)(some_images(), jax.random.key(5))
    for name, expected in single(samples).items():
        np.testing.assert_allclose(
            getattr(answer, name), expected, rtol=1e-5, atol=1e-6, err_msg=name
        )
    assert answer.finite.all()
    assert without.gradient is None
    np.testing.assert_allclose(without.loss, answer.loss, rtol=1e-6)
    np.testing.assert_array_equal(without.wrong, answer.wrong)


def test_float64_and_the_plain_average_agree_to_the_last_digits(x64):
    key, images = jax.random.key(5), jnp.asarray(some_images(), jnp.float64)
    query = jax.jit(functools.partial(oracle.query, random_model, GOAL))
    each = [query(images, k).gradient for k in jax.random.split(key, 6)]
    several = jax.jit(
        functools.partial(
            oracle.query, random_model, GOAL, sampling=oracle.Sampling(6, 4)
        )
    )
    found = several(images, key).gradient
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-12, atol=1e-14)


def test_samples_with_nan_logits():
    # Depending on the key, logits of image 1 are NaN in about half of the samples.
    def sometimes(images, key):
        lost = jax.random.bernoulli(jax.random.fold_in(key, 1))
        broken = jnp.where(lost, jnp.nan, 1.0)
        return random_model(images, key).at[1].multiply(broken)

    samples, key = 5, jax.random.key(5)
    keys = jax.random.split(key, samples)
    lost = [bool(jax.random.bernoulli(jax.random.fold_in(k, 1))) for k in keys]
    assert 0 < sum(lost) < samples
    query = functools.partial(
        oracle.query, sometimes, GOAL, sampling=oracle.Sampling(samples)
    )
    answer = jax.jit(query)(some_images(), key)
    np.testing.assert_array_equal(answer.finite, [True, False, True])
    expected = single(samples)
    np.testing.assert_allclose(
        np.asarray(answer.gradient)[::2], expected["gradient"][::2], atol=1e-6
    )
    np.testing.assert_allclose(
        np.asarray(answer.loss)[::2], expected["loss"][::2], rtol=1e-5
    )
    # The sum over the samples with finite logits; the others count as zero.
    one = jax.jit(functools.partial(oracle.query, random_model, GOAL))
    kept = [one(some_images(), keys[i]) for i in np.flatnonzero(~np.array(lost))]
    slope = np.sum([x.gradient[1] for x in kept], axis=0) / samples
    np.testing.assert_allclose(answer.gradient[1], slope, rtol=1e-5, atol=1e-6)
    wrong = (sum(float(x.wrong[1]) for x in kept) + sum(lost)) / samples
    np.testing.assert_allclose(answer.wrong[1], wrong, rtol=1e-6)


def test_gradient_entries_that_are_not_finite_count_as_zero():
    def logits_fn(images, key):
        odd = jnp.sqrt(jnp.maximum(images[:, 0, 0, 0] - 2, 0))  # slope inf * 0
        return random_model(images, key) + odd[:, None] * jnp.arange(3.0)

    images = some_images()
    slope = jax.grad(lambda x: logits_fn(x, jax.random.key(0)).sum())(images)
    assert np.isnan(slope[:, 0, 0, 0]).all() and np.isnan(slope).sum() == 3
    answer, plain = (
        jax.jit(functools.partial(oracle.query, model, GOAL))(images, jax.random.key(0))
        for model in (logits_fn, random_model)
    )
    np.testing.assert_array_equal(answer.gradient[:, 0, 0, 0], np.zeros(3))
    np.testing.assert_allclose(
        answer.gradient.reshape(3, -1)[:, 1:], plain.gradient.reshape(3, -1)[:, 1:]
    )
    assert answer.finite.all()


def test_goals():
    logits = jnp.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 3.0]])
    away = oracle.make_goal(losses.margin, jnp.array([0, 1, 2]))
    np.testing.assert_array_equal(away.reached(logits), [False, True, False])
    np.testing.assert_array_equal(away.loss(logits), [-1, 1, -1])
    towards = oracle.make_goal(
        losses.targeted_margin, jnp.array([0, 1, 2]), jnp.array([1, 0, 0])
    )
    np.testing.assert_array_equal(towards.reached(logits), [False, True, False])
    np.testing.assert_array_equal(towards.loss(logits), [-1, 1, -1])
    labels, targets = np.array([0, 1, 2]), np.array([1, 0, 0])
    for goal, expected in (((labels,), away), ((labels, targets), towards)):
        default = oracle.make_goal(None, *goal, default=losses.MARGIN)
        np.testing.assert_array_equal(default.loss(logits), expected.loss(logits))
        np.testing.assert_array_equal(default.classes, goal[-1])
        assert default.targeted == expected.targeted == (len(goal) == 2)
