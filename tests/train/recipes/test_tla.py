"""Tests of train/recipes/tla.py, against loops in NumPy and float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.recipes import RECIPES, Batch, Outputs
from train.recipes.tla import Triplet, nearest_negative, same_class, similarity

RNG = np.random.default_rng(1)
LABELS = np.array([0, 0, 1, 1, 2, 2, 3])  # the last is alone in its class
CLEAN, MOVED = RNG.normal(size=(2, 7, 6)).astype(np.float32)
KEY = jax.random.key(3)


def cosine(u: np.ndarray, v: np.ndarray) -> float:
    u, v = np.float64(u), np.float64(v)
    return abs(u @ v) / np.sqrt((u @ u) * (v @ v))


def loss_of(recipe: Triplet, labels: np.ndarray = LABELS) -> float:
    # One pass for the attacked images, and one for the clean; equal logits.
    outputs = iter([Outputs(jnp.zeros((7, 4)), f) for f in (MOVED, CLEAN)])
    loss, _ = recipe.loss(lambda *_: next(outputs), Batch(MOVED, MOVED, labels), KEY)
    return float(loss)


def hinges(anchors, positives, negatives, margin: float) -> float:
    """The mean hinge, one image after another."""
    values = [
        max(cosine(a, n) - cosine(a, p) + margin, 0)
        for a, p, n in zip(anchors, positives, negatives, strict=True)
    ]
    return float(np.mean(values))


@pytest.mark.parametrize("name", ["tla", "tla-sa"])
def test_loss_is_the_formula(name: str) -> None:
    recipe = dataclasses.replace(RECIPES[name], margin=0.3, norm_weight=0.01)
    negatives, partners = [], []
    for i, label in enumerate(LABELS):
        others = np.flatnonzero(LABELS != label)
        nearest = max(others, key=lambda j, i=i: cosine(MOVED[i], CLEAN[j]))
        negatives.append(CLEAN[nearest])
        same = [j for j in np.flatnonzero(LABELS == label) if j != i]
        partners.append(CLEAN[same[0] if same else i])
    expected = np.log(4)
    for positives in (CLEAN, np.array(partners)):
        pair = (MOVED, positives) if name == "tla" else (positives, MOVED)
        sizes = [np.mean(np.float64(x) ** 2) for x in (*pair, negatives)]
        expected += 2 * (hinges(*pair, negatives, 0.3) + 0.01 * sum(sizes))
    assert loss_of(recipe) == pytest.approx(expected, rel=1e-5)


def test_random_negatives_are_any_of_another_class() -> None:
    other = LABELS[:, None] != LABELS
    similar = jnp.asarray(RNG.uniform(size=(7, 7)))
    drawn = np.array(
        [
            nearest_negative(similar, other, "random", jax.random.key(seed))
            for seed in range(200)
        ]
    )
    for i, column in enumerate(drawn.T):
        assert set(column) == set(np.flatnonzero(other[i]))


def test_semi_hard_negatives_are_farther_than_the_positive() -> None:
    other = LABELS[:, None] != LABELS
    similar = RNG.uniform(size=(7, 7))
    similar[0, 0] = 0.0  # nothing is farther: the farthest of the others then
    found = nearest_negative(jnp.asarray(similar), other, "semi-hard", KEY)
    for i, j in enumerate(np.asarray(found)):
        others = np.flatnonzero(other[i])
        farther = [k for k in others if similar[i, k] < similar[i, i]]
        expected = (
            max(farther, key=lambda k, i=i: similar[i, k])
            if farther
            else min(others, key=lambda k, i=i: similar[i, k])
        )
        assert j == expected
    hard = nearest_negative(jnp.asarray(similar), other, "hardest", KEY)
    assert (np.asarray(hard) != np.asarray(found)).any()


def test_the_partner_is_another_of_the_class() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    drawn = np.array([same_class(labels, jax.random.key(s)) for s in range(50)])
    expected = [{1, 2}, {0, 2}, {0, 1}, {3}, {5}, {4}]
    assert [set(column) for column in drawn.T] == expected


def test_a_batch_of_one_class_has_no_triplets() -> None:
    one_class = np.zeros(7, int)
    loss = loss_of(Triplet(norm_weight=0.0, margin=1.0), one_class)
    assert loss == pytest.approx(np.log(4))


def test_zero_features_have_a_slope() -> None:
    slope = jax.grad(lambda u: similarity(u, jnp.ones((2, 3))).sum())(jnp.zeros((2, 3)))
    assert jnp.isfinite(slope).all()
    assert (similarity(jnp.zeros((2, 3)), jnp.ones((2, 3))) == 0).all()
