from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from attacks import judge, losses
from attacks.judge import judge_goal
from attacks.oracle import make_goal


def predicting(classes_of_key, classes=3):
    """A classifier that predicts `classes_of_key(key, n)`, with a logit of 2."""

    def logits_fn(images, key):
        return 2 * jax.nn.one_hot(classes_of_key(key, len(images)), classes)

    return logits_fn


def evaluate(logits_fn, images, labels, key, **options):
    return jax.jit(partial(judge, logits_fn, **options))(images, labels, key)


def images_of(n):
    return jnp.full((n, 2, 2, 1), 0.5)


@pytest.mark.parametrize("evaluations", [1, 2, 10])
def test_a_classifier_that_is_not_random(evaluations):
    logits = np.float32([[3, 1, 0], [1, 0, 2], [0, 4, 1]])
    labels = jnp.array([0, 1, 1])
    judged = evaluate(
        lambda images, key: jnp.asarray(logits),
        images_of(3),
        labels,
        jax.random.key(0),
        evaluations=evaluations,
    )
    np.testing.assert_array_equal(judged.accuracy, [1, 0, 1])
    np.testing.assert_array_equal(judged.majority, [True, False, True])
    double = logits.astype(np.float64)
    expected = np.log(np.exp(double).sum(axis=1)) - double[np.arange(3), labels]
    np.testing.assert_allclose(judged.loss, expected, rtol=1e-5)
    assert judged.finite.all()


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_accuracy_of_a_random_classifier_is_binomial(share):
    # Each image is independent, and correct with probability `share`.
    def classes(key, n):
        right = jax.random.bernoulli(key, share, (n,))
        return jnp.where(right, 1, 2)

    n, evaluations = 3000, 15
    judged = evaluate(
        predicting(classes),
        images_of(n),
        jnp.ones(n, jnp.int32),
        jax.random.key(3),
        evaluations=evaluations,
    )
    right = np.rint(np.asarray(judged.accuracy) * evaluations).astype(int)
    binomial = scipy.stats.binom(evaluations, share)
    observed = np.bincount(right, minlength=evaluations + 1)
    expected = n * binomial.pmf(np.arange(evaluations + 1))
    common = expected > 5
    pooled = lambda x: [*x[common], x[~common].sum()]
    pvalue = scipy.stats.chisquare(
        pooled(observed), pooled(expected), sum_check=False
    ).pvalue
    assert pvalue > 1e-3
    # The vote is correct if more than half of the predictions are.
    np.testing.assert_array_equal(judged.majority, right > evaluations / 2)
    most = binomial.sf(evaluations // 2)
    deviation = np.sqrt(most * (1 - most) / n)
    assert abs(np.asarray(judged.majority).mean() - most) < 4 * deviation + 1e-3


def test_loss_is_the_mean_over_the_keys_of_judge():
    def logits_fn(images, key):
        return jax.random.normal(key, (len(images), 4))

    key, labels = jax.random.key(2), jnp.array([0, 3])
    judged = evaluate(
        logits_fn, images_of(2), labels, key, evaluations=6, loss=losses.margin
    )
    each = [np.asarray(logits_fn(images_of(2), k)) for k in jax.random.split(key, 6)]
    margins = [
        [np.delete(row, y).max() - row[y] for row, y in zip(z, [0, 3], strict=True)]
        for z in each
    ]
    named = np.array([z.argmax(axis=1) for z in each])
    np.testing.assert_allclose(judged.loss, np.mean(margins, axis=0), rtol=1e-5)
    expected = (named == np.array([0, 3])).mean(axis=0)
    np.testing.assert_allclose(judged.accuracy, expected, rtol=1e-6)


def in_turn(rows):
    """Rows of logits, chosen by the number in the key: 0, 1, 2, ..."""
    table = jnp.asarray(rows, jnp.float32)

    def logits_fn(images, key):
        return table[jax.random.key_data(key)[-1] % len(table)][None]

    return logits_fn


def turns(key, count):
    """How often each of `count` rows of `in_turn` is used, under `judge`'s keys."""
    keys = jax.random.split(key, 12)
    numbers = np.asarray(jax.random.key_data(keys))[:, -1] % count
    return np.bincount(numbers, minlength=count)


@pytest.mark.parametrize("seed", range(3))
def test_nan_logits_predict_no_class(seed):
    key = jax.random.key(seed)
    ones = np.float32([[np.nan, 9, 0], [0, 1, np.inf], [0, 1, 0], [1, 0, 0]])
    judged = evaluate(in_turn(ones), images_of(1), jnp.array([1]), key, evaluations=12)
    lost_a, lost_b, right, wrong = turns(key, 4)
    assert lost_a + lost_b and right
    np.testing.assert_allclose(judged.accuracy, [right / 12], rtol=1e-6)
    np.testing.assert_array_equal(judged.majority, [right > wrong])
    np.testing.assert_array_equal(judged.finite, [False])


@pytest.mark.parametrize("evaluations", [1, 5])
def test_without_finite_logits_nothing_is_correct(evaluations):
    def lost(images, key):
        return jnp.full((len(images), 3), jnp.nan)

    labels = jnp.array([0, 1, 2])
    judged = evaluate(
        lost, images_of(3), labels, jax.random.key(0), evaluations=evaluations
    )
    np.testing.assert_array_equal(judged.accuracy, [0, 0, 0])
    np.testing.assert_array_equal(judged.majority, [False] * 3)
    np.testing.assert_array_equal(judged.finite, [False] * 3)


def test_the_first_of_equally_frequent_classes_counts():
    # Twelve keys of a seed at which two classes are predicted six times each.
    two = np.float32([[0, 0, 1], [0, 1, 0]])
    seed = next(s for s in range(100) if turns(jax.random.key(s), 2)[0] == 6)
    compiled = jax.jit(partial(judge, in_turn(two), evaluations=12))
    query = partial(compiled, images_of(1), key=jax.random.key(seed))
    for label, expected in ((0, False), (1, True), (2, False)):
        assert bool(query(labels=jnp.array([label])).majority[0]) is expected
    np.testing.assert_allclose(query(labels=jnp.array([2])).accuracy, [0.5], rtol=1e-6)


def test_one_random_error_does_not_decide_the_vote():
    # Wrong with probability 0.1: one query misclassifies a tenth of the images.
    def classes(key, n):
        return jax.random.bernoulli(key, 0.1, (n,)).astype(jnp.int32)

    n, labels = 500, jnp.zeros(500, jnp.int32)
    query = partial(
        evaluate, predicting(classes), images_of(n), labels, jax.random.key(0)
    )
    assert 0.8 < query().majority.mean() < 0.95
    judged = query(evaluations=21)
    assert judged.majority.all()
    np.testing.assert_allclose(judged.accuracy.mean(), 0.9, atol=0.015)


def test_targets_are_judged_like_labels():
    logits = jnp.array([[0.0, 1.0, 3.0], [4.0, 1.0, 3.0]])
    labels, targets = jnp.array([0, 1]), jnp.array([2, 2])
    goal = make_goal(losses.targeted_margin, labels, targets)
    judged = judge_goal(
        lambda images, key: logits, goal, images_of(2), jax.random.key(0), 3
    )
    np.testing.assert_array_equal(judged.majority, [True, False])
    np.testing.assert_allclose(judged.loss, [2, -1], rtol=1e-6)


@pytest.mark.parametrize("evaluations", [0, -3])
def test_refuses_zero_evaluations(evaluations):
    with pytest.raises(ValueError, match=f"at least 1, got {evaluations}"):
        judge(
            predicting(lambda key, n: jnp.zeros(n, int)),
            images_of(1),
            jnp.array([0]),
            jax.random.key(0),
            evaluations=evaluations,
        )
