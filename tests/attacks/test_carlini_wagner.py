import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from attacks.carlini_wagner import carlini_wagner

CLASSES, SHAPE = 4, (3, 4, 2)
KEY = jax.random.key(0)


linear, WEIGHTS = networks.linear(SHAPE, CLASSES, middle=0.5, in_order=True)


def some_images(n=5):
    """Images with their labels and logits under `linear`."""
    return networks.inner_images(n, SHAPE, WEIGHTS)


def half_spaces(logits, labels, confidence):
    return networks.half_spaces(logits, labels, WEIGHTS, confidence=confidence)


def nearest(logits, labels, confidence, targets=None):
    """Float64: the smallest distance at which another class, or the target, wins.

    A target has to beat all others: a quadratic programme, solved on its dual.
    """
    if targets is None:
        return half_spaces(logits, labels, confidence).min(axis=1)
    found, w = [], WEIGHTS
    for z, t in zip(logits, targets, strict=True):
        rest = [k for k in range(CLASSES) if k != t]
        rows = (w[:, [t]] - w[:, rest]).T
        missing = confidence + z[rest] - z[t]
        dual, step = np.zeros(len(rest)), 1 / np.linalg.norm(rows @ rows.T, 2)
        for _ in range(5000):
            dual = np.maximum(dual + step * (missing - rows @ rows.T @ dual), 0)
        found.append(np.linalg.norm(rows.T @ dual))
    return np.array(found)


@functools.partial(
    jax.jit, static_argnames=("binary_search_steps", "steps", "abort_early")
)
def attack(images, labels, key=KEY, targets=None, **options):
    options = {"binary_search_steps": 8, "steps": 300, "learning_rate": 0.005} | options
    return carlini_wagner(linear, images, labels, key, targets=targets, **options)


@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_finds_the_linear_optimum(confidence):
    images, labels, logits = some_images()
    # Early stopping costs up to 3 % here, so it is off.
    found = attack(images, labels, confidence=confidence, abort_early=False)
    best = nearest(logits, labels, confidence)
    assert found.unconstrained.success.all()
    assert (found.unconstrained.loss > confidence).all()
    assert (found.l2 > best * (1 - 1e-4)).all()
    # If the likeliest other class is not the nearest, it is a local optimum.
    likeliest = np.argsort(-logits, axis=1)[:, 1]
    local = half_spaces(logits, labels, confidence)[np.arange(5), likeliest]
    assert (local == best).sum() >= 3
    np.testing.assert_allclose(found.l2[local == best], best[local == best], rtol=0.005)
    assert (found.l2 < 1.005 * local).all()


def test_finds_the_linear_optimum_of_a_target():
    images, labels, logits = some_images()
    targets = (labels + 1 + np.arange(5) % 3) % CLASSES
    found = attack(images, labels, targets=targets, confidence=0.2, abort_early=False)
    best = nearest(logits, labels, 0.2, targets)
    assert found.unconstrained.success.all()
    named = linear(found.unconstrained.images, KEY).argmax(axis=1)
    np.testing.assert_array_equal(named, targets)
    assert (found.l2 > best * (1 - 1e-4)).all()
    np.testing.assert_allclose(found.l2, best, rtol=0.02)


@pytest.mark.parametrize("epsilon", [0.0, 8 / 255, 0.2, 1.0])
def test_both_readings(epsilon):
    images, labels, _ = some_images()
    images[0, 0, 0] = [0.0, 1.0]  # pixels at the ends of the box have no slope left
    found = attack(images, labels, confidence=0.5, epsilon=epsilon)
    free, inside = (
        np.asarray(x.images) for x in (found.unconstrained, found.projected)
    )
    for result in (free, inside):
        assert result.min() >= 0 and result.max() <= 1
    assert np.abs(inside - images).max() <= np.float32(epsilon)
    np.testing.assert_allclose(
        inside, images + np.clip(free - images, -epsilon, epsilon), atol=1e-6
    )
    difference = free.astype(np.float64) - images
    l2 = np.sqrt((difference**2).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(found.l2, l2, rtol=1e-5)
    np.testing.assert_allclose(
        found.linf, np.abs(difference).max(axis=(1, 2, 3)), rtol=1e-6
    )
    if epsilon == 0:
        np.testing.assert_array_equal(inside, images)
    for judged in (found.unconstrained, found.projected):
        named = np.asarray(linear(judged.images, KEY)).argmax(axis=1)
        np.testing.assert_array_equal(judged.success, named != labels)


def test_an_unreachable_confidence_gives_the_largest_margin_met():
    images, labels, _ = some_images()
    found = attack(images, labels, confidence=50.0, abort_early=False)
    # The margin is largest in the corner of the box that the weights point to.
    w = WEIGHTS
    corners = [
        max(
            np.abs(w[:, k] - w[:, y]).sum() / 2
            for k in range(CLASSES)
            if k != y  # an upper bound: further classes only lower it
        )
        for y in labels
    ]
    margins = np.asarray(found.unconstrained.loss)
    assert (margins < corners).all() and (margins > 0.5 * np.array(corners)).all()
    assert found.unconstrained.success.all()


def test_a_misclassified_image_is_returned_unchanged():
    images, labels, _ = some_images()
    found = attack(images, (labels + 1) % CLASSES, confidence=0.0)
    assert found.unconstrained.success.all() and found.projected.success.all()
    np.testing.assert_allclose(found.unconstrained.images, images, atol=2e-6)
    assert (found.l2 < 1e-5).all()


def test_queries_and_early_stopping():
    images, labels, logits = some_images()
    patient = attack(images, labels, confidence=0.0, abort_early=False)
    quick = attack(images, labels, confidence=0.0)
    np.testing.assert_array_equal(
        patient.unconstrained.queries, np.full(5, 8 * 300 + 1)
    )
    np.testing.assert_array_equal(quick.unconstrained.queries, quick.projected.queries)
    assert (quick.unconstrained.queries < 8 * 300).all()
    # Each image stops on its own, after a multiple of a tenth of the steps.
    assert ((np.asarray(quick.unconstrained.queries) - 1 - 8) % 30 == 0).all()
    assert len(set(np.asarray(quick.unconstrained.queries).tolist())) > 1
    np.testing.assert_allclose(quick.l2, patient.l2, rtol=0.02)


def test_an_image_does_not_depend_on_its_batch():
    images, labels, _ = some_images()
    together = attack(images, labels, confidence=0.5)
    for i in (1, 4):
        alone = attack(images[i : i + 1], labels[i : i + 1], confidence=0.5)
        same = jax.tree.map(lambda x, i=i: x[i : i + 1], together)
        np.testing.assert_array_equal(
            alone.unconstrained.images, same.unconstrained.images
        )
        # Rounding depends on the compiler's order of summation.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
            alone,
            same,
        )


def test_ten_searches_end_with_the_smallest_successful_constant():
    images, labels, logits = some_images(2)
    short = attack(images, labels, confidence=0.0, binary_search_steps=10)
    best = nearest(logits, labels, 0.0)
    np.testing.assert_allclose(short.l2, best, rtol=0.04)


def test_iterates_with_nan_logits_are_counted_but_not_returned():
    def broken(images, key):
        far = jnp.abs(images - 0.5).max(axis=(1, 2, 3)) > 0.7 - 0.5
        return jnp.where(far[:, None], jnp.nan, linear(images, key))

    images, labels, _ = some_images()
    run = jax.jit(
        functools.partial(
            carlini_wagner,
            broken,
            steps=100,
            learning_rate=0.05,
            confidence=5.0,
            initial_const=10.0,
        )
    )
    found = run(images, labels, KEY)
    assert np.isfinite(broken(found.unconstrained.images, KEY)).all()
    assert np.isfinite(found.unconstrained.loss).all()
    assert (found.unconstrained.not_finite > 0).all()
    assert (found.unconstrained.not_finite < found.unconstrained.queries).all()
    assert found.unconstrained.success.any()


def test_without_finite_logits_the_image_is_returned():
    images, labels, _ = some_images()
    lost = lambda images, key: linear(images, key) * jnp.nan
    found = jax.jit(functools.partial(carlini_wagner, lost, steps=3))(
        images, labels, KEY
    )
    np.testing.assert_array_equal(found.unconstrained.images, images)
    np.testing.assert_array_equal(found.unconstrained.queries, np.full(5, 16))
    np.testing.assert_array_equal(found.unconstrained.not_finite, np.full(5, 16))
    np.testing.assert_array_equal(found.l2, np.zeros(5))


def test_samples_average_a_random_classifier():
    def noisy(images, key):
        return linear(images, key) + 0.3 * jax.random.normal(key, (CLASSES,))

    images, labels, logits = some_images()
    run = functools.partial(
        carlini_wagner,
        noisy,
        images,
        labels,
        KEY,
        steps=60,
        learning_rate=0.02,
        confidence=1.0,
        evaluations=25,
    )
    one = jax.jit(run)()
    several = jax.jit(functools.partial(run, eot_samples=9, eot_chunk=4))()
    assert several.unconstrained.success.all()
    assert (several.unconstrained.queries > 9 * 5 * 2).all()
    assert (several.unconstrained.queries % 9 == 25 % 9).all()
    # A single random error is near; the average over nine needs a larger distance.
    assert several.l2.mean() > one.l2.mean()
    assert several.unconstrained.loss.mean() > one.unconstrained.loss.mean()


@pytest.mark.parametrize("shape", [(1, 2, 7, 1), (2, 5, 3, 3)])
def test_other_shapes(shape):
    def light(images, key):
        total = 10 * (images.mean(axis=(1, 2, 3)) - 0.5)
        return jnp.stack([-total, total], axis=1)

    images, labels = np.full(shape, 0.52, np.float32), np.ones(shape[0], np.int32)
    found = jax.jit(
        functools.partial(
            carlini_wagner, light, confidence=0.1, steps=150, abort_early=False
        )
    )(images, labels, KEY)
    assert found.unconstrained.images.shape == shape
    # The mean has to fall from 0.52 to 0.495, equally in all pixels.
    expected = 0.025 * np.prod(shape[1:]) ** 0.5
    np.testing.assert_allclose(found.l2, expected, rtol=0.02)
    assert found.projected.success.all()
