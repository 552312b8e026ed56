import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from attacks import losses

LABELS = np.array([0, 4, 2, 2, 1, 3])
TARGETS = np.array([1, 0, 4, 3, 3, 2])


def some_logits(scale=3.0, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(len(LABELS), classes)).astype(np.float32)


def others(row, label):
    return np.delete(row, label)


# Formulas for one image, in float64: z are logits, y a label, t a target.
FORMULAS = {
    "cross_entropy": lambda z, y, t: np.log(np.exp(z - z[y]).sum()),
    "margin": lambda z, y, t: others(z, y).max() - z[y],
    "dlr": lambda z, y, t: (
        -(z[y] - others(z, y).max()) / (np.sort(z)[-1] - np.sort(z)[-3])
    ),
    "targeted_cross_entropy": lambda z, y, t: -np.log(np.exp(z - z[t]).sum()),
    "targeted_margin": lambda z, y, t: z[t] - others(z, t).max(),
    "targeted_difference": lambda z, y, t: z[t] - z[y],
    "targeted_dlr": lambda z, y, t: (
        -(z[y] - z[t]) / (np.sort(z)[-1] - (np.sort(z)[-3] + np.sort(z)[-4]) / 2)
    ),
}


def apply(name, logits, images=slice(None)):
    classes = [jnp.asarray(LABELS[images]), jnp.asarray(TARGETS[images])]
    loss = getattr(losses, name)
    return loss(jnp.asarray(logits), *classes[: 1 + name.startswith("targeted")])


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_agrees_with_the_formula(name, scale):
    logits = some_logits(scale)
    rows = zip(logits.astype(np.float64), LABELS, TARGETS, strict=True)
    expected = [FORMULAS[name](*row) for row in rows]
    np.testing.assert_allclose(apply(name, logits), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_gradient_agrees_with_differences(name):
    logits = some_logits().astype(np.float64)
    gradient = jax.grad(lambda z: apply(name, z).sum())(logits.astype(np.float32))
    step, expected = 1e-6, np.zeros_like(logits)
    for index in np.ndindex(*logits.shape):
        image, label, target = index[0], LABELS[index[0]], TARGETS[index[0]]
        ends = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[index] += sign * step
            ends.append(FORMULAS[name](moved[image], label, target))
        expected[index] = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["margin", "targeted_margin"])
def test_the_margin_is_positive_where_the_attack_succeeded(name):
    logits = some_logits(seed=3)
    named = logits.argmax(axis=1)
    won = named == TARGETS if name.startswith("targeted") else named != LABELS
    assert won.any() and not won.all()
    np.testing.assert_array_equal(np.asarray(apply(name, logits)) > 0, won)


@pytest.mark.parametrize("name", ["dlr", "targeted_dlr"])
def test_the_ratio_does_not_change_with_scale_and_shift(name):
    logits = some_logits()
    expected = apply(name, logits)
    np.testing.assert_allclose(apply(name, 1000 * logits + 7), expected, rtol=1e-3)


@pytest.mark.parametrize("name", ["dlr", "targeted_dlr"])
def test_the_ratio_of_equal_logits_is_zero(name):
    np.testing.assert_array_equal(apply(name, np.ones((6, 5), np.float32)), np.zeros(6))


def test_a_large_margin_does_not_overflow():
    logits = np.float32([[1e4, 0, 0, 0, 0]] * 6)
    for name in FORMULAS:
        assert np.isfinite(apply(name, logits)).all(), name
    np.testing.assert_allclose(apply("cross_entropy", logits)[1:], 1e4, rtol=1e-6)


def test_kl_agrees_with_scipy():
    reference, logits = some_logits(), some_logits(seed=1)
    kl = losses.kl_from(jnp.asarray(reference))
    expected = scipy.stats.entropy(
        scipy.special.softmax(reference.astype(np.float64), axis=1),
        scipy.special.softmax(logits.astype(np.float64), axis=1),
        axis=1,
    )
    labels = jnp.asarray(LABELS)
    value, itself = kl(jnp.asarray(logits), labels), kl(jnp.asarray(reference), labels)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(itself, np.zeros(6), atol=1e-6)


def test_kl_of_probabilities_that_vanish_is_finite():
    reference = jnp.array([[0.0, 200.0, -200.0]])
    kl = losses.kl_from(reference)
    # The reference has all mass on class 1: -log of the other's probability of it.
    value = kl(jnp.array([[300.0, 0.0, 0.0]]), jnp.array([0]))
    np.testing.assert_allclose(value, [300.0], rtol=1e-6)
    slope = jax.grad(lambda z: kl(z, jnp.array([0])).sum())(reference)
    assert np.isfinite(slope).all()


def test_kl_holds_its_reference_constant():
    def total(reference):
        logits = jnp.asarray(some_logits(seed=1))
        return losses.kl_from(reference)(logits, jnp.asarray(LABELS)).sum()

    np.testing.assert_array_equal(jax.grad(total)(some_logits()), np.zeros((6, 5)))


@pytest.mark.parametrize(("name", "least"), [("dlr", 3), ("targeted_dlr", 4)])
def test_refuses_too_few_classes(name, least):
    message = f"compares {least} logits, logits_fn has {least - 1}"
    with pytest.raises(ValueError, match=message):
        apply(name, some_logits(classes=least - 1))


@pytest.mark.parametrize("name", FORMULAS)
def test_images_are_independent(name):
    logits = some_logits()
    together = np.asarray(apply(name, logits))
    for i in range(len(LABELS)):
        alone = apply(name, logits[i : i + 1], slice(i, i + 1))
        np.testing.assert_allclose(alone, together[i : i + 1], rtol=1e-6, atol=1e-7)


def test_likeliest_others_are_sorted_and_exclude_the_label():
    logits = np.random.default_rng(0).normal(size=(5, 6))
    logits[3, 2], logits[4, 1:3], logits[2, 5] = -np.inf, [np.nan, -np.inf], np.nan
    logits[0, 1:4] = 2.5
    labels = np.array([0, logits[1].argmax(), 5, 2, 3])
    for count in (1, 3, 5):
        found = np.asarray(
            losses.likeliest_others(jnp.asarray(logits), jnp.asarray(labels), count)
        )
        assert found.shape == (count, 5)
        for row, label, chosen in zip(logits, labels, found.T, strict=True):
            order = sorted(
                set(range(6)) - {label},
                key=lambda k: (np.isnan(row[k]), -row[k], k),  # noqa: B023
            )
            np.testing.assert_array_equal(chosen, order[:count])
