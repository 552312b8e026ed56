import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from attacks.deepfool import deepfool

CLASSES, SHAPE = 5, (3, 4, 2)
KEY = jax.random.key(0)


linear, WEIGHTS = networks.linear(SHAPE, CLASSES, middle=0.5, in_order=True)


def some_images(n=6, seed=1):
    """Images with their labels and logits under `linear`."""
    return networks.inner_images(n, SHAPE, WEIGHTS, seed)


def lengths(moved, norm):
    flat = np.asarray(moved, np.float64).reshape(len(moved), -1)
    return np.linalg.norm(flat, np.inf if norm == "linf" else 2, axis=1)


@functools.partial(jax.jit, static_argnames=("norm", "steps", "candidates"))
def compiled(images, labels, options, **static):
    return deepfool(linear, images, labels, KEY, **options, **static)


def attack(images, labels, *, overshoot=0.02, epsilon=None, **static):
    """With norm "l2" unless `static` has another."""
    options = {"overshoot": overshoot, "epsilon": epsilon}
    return compiled(images, labels, options, **{"norm": "l2", **static})


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
@pytest.mark.parametrize("overshoot", [0.0, 0.02])
def test_finds_the_linear_optimum_in_one_step(norm, dual, overshoot):
    images, labels, logits = some_images()
    attacked = attack(images, labels, norm=norm, overshoot=overshoot)
    each = networks.half_spaces(logits, labels, WEIGHTS, dual)
    best, nearest = each.min(axis=1), each.argmin(axis=1)
    assert attacked.success.all()
    length = lengths(attacked.images - images, norm)
    # 1e-4 is the algorithm's own constant, so that the boundary is crossed.
    expected = (1 + overshoot) * (best + 1e-4)
    np.testing.assert_allclose(length, expected, rtol=1e-3)
    for i in range(len(images)):
        slope = WEIGHTS[:, nearest[i]] - WEIGHTS[:, labels[i]]
        unit = slope / np.linalg.norm(slope) if norm == "l2" else np.sign(slope)
        moved = (np.asarray(attacked.images[i], np.float64) - images[i]).ravel()
        np.testing.assert_allclose(moved, expected[i] * unit, atol=1e-6)
    # To choose the classes, a step, the one that finds the error, and the evaluation.
    np.testing.assert_array_equal(attacked.queries, np.full(6, 1 + 2 * 5 + 1))


def reference(images, labels, logits_of, steps, overshoot):
    """Float64 NumPy, image by image, for `curved` below; L2, all classes."""
    result = []
    for image, label in zip(images.astype(np.float64), labels, strict=True):
        current, total = image.ravel(), np.zeros(image.size)
        for _ in range(steps):
            logits, slopes = logits_of(current)
            if logits.argmax() != label:
                break
            others = [k for k in range(len(logits)) if k != label]
            normals = [slopes[:, k] - slopes[:, label] for k in others]
            away = [
                abs(logits[k] - logits[label]) / (np.linalg.norm(w) + 1e-8)
                for k, w in zip(others, normals, strict=True)
            ]
            best = int(np.argmin(away))
            normal = normals[best]
            total += (away[best] + 1e-4) * normal / np.linalg.norm(normal)
            current = np.clip(image.ravel() + (1 + overshoot) * total, 0, 1)
        result.append(current.reshape(image.shape))
    return np.stack(result)


def test_agrees_with_float64_loop_on_a_curved_classifier():
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(24, 9)), rng.normal(size=(9, CLASSES))

    def curved(images, key):
        hidden = jnp.tanh((images.reshape(len(images), -1) - 0.5) @ first)
        return hidden @ second

    def logits_of(flat):
        hidden = np.tanh((flat - 0.5) @ first)
        return hidden @ second, (first * (1 - hidden**2)) @ second

    images = rng.uniform(0, 1, (8, *SHAPE)).astype(np.float32)
    labels = np.array([logits_of(x.ravel().astype(np.float64))[0] for x in images])
    labels = labels.argmax(axis=1)
    with jax.enable_x64(True):
        run = jax.jit(functools.partial(deepfool, curved))
        attacked = run(images.astype(np.float64), labels, jax.random.key(0))
        looks = (np.asarray(attacked.queries) - 2) // CLASSES
    assert looks.max() > 3  # a step is not enough here
    expected = reference(images, labels, logits_of, steps=50, overshoot=0.02)
    np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1e-9)
    assert attacked.success.all()


def test_fewer_candidates_are_the_most_likely():
    images, labels, logits = some_images(12, seed=0)
    each = networks.half_spaces(logits, labels, WEIGHTS)
    second = np.argsort(-logits, axis=1)[:, 1]
    expected = 1.02 * (each[np.arange(12), second] + 1e-4)
    assert (second != each.argmin(axis=1)).any()
    attacked = attack(images, labels, candidates=2, steps=1)
    length = lengths(attacked.images - images, "l2")
    # A nearer class on the way is also crossed by the one step.
    np.testing.assert_allclose(length, expected, rtol=1e-3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 10.0])
def test_a_ball_bounds_the_result(norm, epsilon):
    images, labels, _ = some_images()
    images[0, 0, 0] = [0.0, 1.0]
    attacked = attack(images, labels, norm=norm, epsilon=epsilon)
    result = np.asarray(attacked.images)
    assert result.min() >= 0 and result.max() <= 1
    length = lengths(attacked.images - images, norm)
    assert (length <= np.float32(epsilon)).all()
    if epsilon == 0:
        np.testing.assert_array_equal(result, images)
    named = np.asarray(linear(result, KEY)).argmax(axis=1)
    np.testing.assert_array_equal(attacked.success, named != labels)
    assert epsilon < 1 or attacked.success.all()


def test_a_misclassified_image_is_returned_unchanged():
    images, labels, _ = some_images()
    attacked = attack(images, (labels + 1) % CLASSES)
    np.testing.assert_array_equal(attacked.images, images)
    assert attacked.success.all()
    # To choose the classes, one step that finds the error, and the evaluation.
    np.testing.assert_array_equal(attacked.queries, np.full(6, 1 + 5 + 1))


def test_no_steps_return_the_image():
    images, labels, _ = some_images()
    attacked = attack(images, labels, steps=0)
    np.testing.assert_array_equal(attacked.images, images)
    np.testing.assert_array_equal(attacked.queries, np.full(6, 3))
    assert not attacked.success.any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_image_does_not_depend_on_its_batch(norm):
    images, labels, _ = some_images()
    labels[2] = (labels[2] + 1) % CLASSES  # done at once
    together = attack(images, labels, norm=norm)
    for i in (2, 5):
        alone = attack(images[i : i + 1], labels[i : i + 1], norm=norm)
        same = jax.tree.map(lambda x, i=i: x[i : i + 1], together)
        np.testing.assert_allclose(alone.images, same.images, rtol=0, atol=6e-8)
        np.testing.assert_array_equal(alone.queries, same.queries)
        np.testing.assert_array_equal(alone.success, same.success)


def test_a_flat_classifier_moves_nothing():
    def flat(images, key):
        return jnp.tile(jnp.array([3.0, 2.0, 1.0]), (len(images), 1)) + 0 * images.sum()

    images, labels, _ = some_images()
    for norm in ("l2", "linf"):
        run = jax.jit(functools.partial(deepfool, flat, norm=norm, steps=4))
        attacked = run(images, 0 * labels, KEY)
        np.testing.assert_array_equal(attacked.images, images)
        assert not attacked.success.any() and not attacked.not_finite.any()
        np.testing.assert_array_equal(attacked.queries, np.full(6, 1 + 4 * 3 + 1 + 1))


def test_iterates_with_nan_logits_are_counted_but_not_returned():
    # A straight step to the boundary ends in NaN for the last three images.
    def broken(images, key):
        z = linear(images, key)
        lead = jnp.sort(z, axis=1)[:, -1] - jnp.sort(z, axis=1)[:, -2]
        lost = (lead < least) & (images[:, 0, 0, 0] < 0.1)
        return jnp.where(lost[:, None], jnp.nan, z)

    images, labels, _ = some_images()
    images[:, 0, 0, 0] = [0.6, 0.6, 0.6, 0.0, 0.0, 0.0]
    clean = np.sort(linear(images, KEY), axis=1)
    labels = np.asarray(linear(images, KEY)).argmax(axis=1)
    least = 0.9 * (clean[:, -1] - clean[:, -2]).min()  # the start has finite logits
    assert np.isfinite(broken(images, KEY)).all()
    attacked = jax.jit(functools.partial(deepfool, broken, steps=5))(
        images, labels, KEY
    )
    assert np.isfinite(broken(attacked.images, KEY)).all()
    lost = np.asarray(attacked.not_finite) > 0
    assert lost[3:].any() and not lost[:3].any()
    np.testing.assert_array_equal(attacked.success, ~lost)
    np.testing.assert_array_equal(attacked.images[lost], images[lost])


def test_samples_average_a_random_classifier():
    def noisy(images, key):
        return linear(images, key) * (1 + 0.5 * jax.random.normal(key, (CLASSES,)))

    images, labels, _ = some_images()
    samples, chunk = 7, 3
    run = functools.partial(deepfool, eot_samples=samples, eot_chunk=chunk, steps=3)
    attacked = jax.jit(functools.partial(run, noisy))(images, labels, KEY)

    def mean(images, key):
        keys = jax.random.split(key, samples)
        return jax.vmap(noisy, (None, 0))(images, keys).mean(axis=0)

    written = jax.jit(functools.partial(deepfool, mean, steps=3))(images, labels, KEY)
    np.testing.assert_allclose(attacked.images, written.images, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(attacked.queries - 1, samples * (written.queries - 1))


@pytest.mark.parametrize(
    ("shape", "norm"), [((1, 2, 7, 1), "l2"), ((2, 5, 3, 3), "linf")]
)
def test_other_shapes(shape, norm):
    def light(images, key):
        total = images.mean(axis=(1, 2, 3)) - 0.5
        return jnp.stack([-total, total], axis=1)

    images, labels = np.full(shape, 0.6, np.float32), np.ones(shape[0], np.int32)
    run = jax.jit(functools.partial(deepfool, light, norm=norm))
    attacked = run(images, labels, KEY)
    away = 0.1 * np.prod(shape[1:]) ** (0.5 if norm == "l2" else 0)
    length = lengths(attacked.images - images, norm)
    np.testing.assert_allclose(length, 1.02 * (away + 1e-4), rtol=1e-4)
    assert attacked.success.all()


def test_refuses_a_single_class():
    with pytest.raises(ValueError, match="returned 1 logits"):
        deepfool(
            lambda images, key: images.mean(axis=(1, 2)),
            np.zeros((1, 2, 2, 1), np.float32),
            np.array([0]),
            KEY,
        )
