import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attacks import pgd

CLASSES = 4


def linear_model(shape, seed=0):
    """Logits and the float64 weights behind them, [h * w * c, classes]."""
    weights = np.random.default_rng(seed).normal(size=(np.prod(shape), CLASSES))

    def logits_fn(images, key):
        flat = images.reshape(len(images), -1)
        return jnp.matmul(flat, weights.astype(np.float32), precision="highest")

    return logits_fn, weights


def some_images(n, shape, seed=1):
    return np.random.default_rng(seed).random((n, *shape), np.float32)


def two_layers(images, key):
    """A smooth classifier with many local slopes, and a random one at that."""
    rng = np.random.default_rng(9)
    first = rng.normal(size=(images[0].size, 16)).astype(images.dtype)
    second = rng.normal(size=(16, CLASSES)).astype(images.dtype)
    hidden = jnp.tanh(images.reshape(len(images), -1) @ first)
    return hidden @ second + 0.1 * jax.random.uniform(key, (CLASSES,))


@pytest.mark.parametrize(
    ("shape", "random_start"), [((5, 5, 3), False), ((2, 7, 1), True)]
)
def test_two_classes_reach_the_linear_optimum(shape, random_start):
    # For two classes the loss rises along w_other - w_label everywhere, so the best
    # perturbation is epsilon times its sign, cut to the box.
    logits_fn, weights = linear_model(shape)
    two = lambda images, key: logits_fn(images, key)[:, :2]
    images, labels = some_images(6, shape), np.array([0, 1, 0, 1, 0, 1])
    epsilon = 0.1
    attacked = pgd(
        two,
        images,
        labels,
        jax.random.key(0),
        epsilon=epsilon,
        step_size=0.05,
        steps=5,
        random_start=random_start,
    )
    slopes = (weights[:, 1 - labels] - weights[:, labels]).T.reshape(images.shape)
    expected = np.clip(images + epsilon * np.sign(slopes), 0, 1)
    np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1e-6)
    logits = expected.reshape(6, -1) @ weights[:, :2]
    margin = logits[np.arange(6), labels] - logits[np.arange(6), 1 - labels]
    np.testing.assert_array_equal(attacked.success, margin < 0)
    np.testing.assert_allclose(attacked.loss, np.log1p(np.exp(-margin)), rtol=1e-4)
    np.testing.assert_array_equal(attacked.queries, np.full(6, 7, np.int32))


def reference_pgd(images, start, labels, weights, epsilon, step_size, steps):
    """Float64 NumPy, images one by one, gradient written out: W (softmax - onehot)."""
    result = []
    for image, current, label in zip(images, start, labels, strict=True):
        image, current = image.astype(np.float64), current.astype(np.float64)
        for _ in range(steps):
            probabilities = scipy.special.softmax(current.ravel() @ weights)
            probabilities[label] -= 1
            gradient = (weights @ probabilities).reshape(image.shape)
            current = current + step_size * np.sign(gradient)
            current = np.minimum(np.maximum(current, image - epsilon), image + epsilon)
            current = np.minimum(np.maximum(current, 0), 1)
        result.append(current)
    return np.stack(result)


@pytest.mark.parametrize(("shape", "steps"), [((8, 8, 3), 7), ((3, 5, 2), 1)])
def test_agrees_with_float64_loop_from_the_same_start(shape, steps):
    logits_fn, weights = linear_model(shape)
    weights = weights / 10  # keeps the softmax, and so the gradient, away from 0
    soft = lambda images, key: logits_fn(images, key) / 10
    images, labels = some_images(5, shape), np.array([0, 1, 2, 3, 0])
    options = {"epsilon": 8 / 255, "step_size": 2 / 255}
    key = jax.random.key(3)
    start = pgd(soft, images, labels, key, steps=0, **options).images
    attacked = pgd(soft, images, labels, key, steps=steps, **options)
    expected = reference_pgd(
        images, np.asarray(start), labels, weights, steps=steps, **options
    )
    np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1e-6)
    logits = expected.reshape(5, -1) @ weights
    loss = -scipy.special.log_softmax(logits, axis=1)[np.arange(5), labels]
    np.testing.assert_allclose(attacked.loss, loss, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(attacked.success, logits.argmax(axis=1) != labels)


def test_random_start_is_uniform_in_the_ball():
    images = np.full((2, 64, 64, 3), 0.5, np.float32)
    attacked = pgd(
        two_layers, images, np.array([0, 1]), jax.random.key(0), epsilon=0.1, steps=0
    )
    shares = (np.asarray(attacked.images) - images + 0.1) / 0.2
    for image in shares:
        assert scipy.stats.kstest(image.ravel(), "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(shares[0].ravel(), shares[1].ravel())[0, 1]) < 0.05


def test_no_random_start_and_no_steps_is_the_image():
    images, labels = some_images(2, (3, 4, 3)), np.array([0, 1])
    key = jax.random.key(0)
    attacked = pgd(two_layers, images, labels, key, steps=0, random_start=False)
    np.testing.assert_array_equal(attacked.images, images)
    np.testing.assert_array_equal(attacked.queries, [2, 2])


def test_an_image_alone_is_as_in_the_batch():
    images, labels = some_images(7, (6, 5, 3)), np.arange(7) % CLASSES
    logits_fn, _ = linear_model((6, 5, 3))
    options = {"key": jax.random.key(5), "step_size": 0.005}
    attack = jax.jit(functools.partial(pgd, logits_fn, **options))
    batch = attack(images, labels)
    for i in range(7):
        alone = attack(images[i : i + 1], labels[i : i + 1], first_index=i)
        np.testing.assert_array_equal(alone.images[0], batch.images[i])
        assert alone.success[0] == batch.success[i]
    others = images.copy()
    others[1:] = 0
    np.testing.assert_array_equal(attack(others, labels).images[0], batch.images[0])


def test_same_key_same_result_other_key_other_result():
    images, labels = some_images(3, (6, 6, 3)), np.array([0, 1, 2])
    attack = jax.jit(functools.partial(pgd, two_layers, images, labels))
    first, again = attack(jax.random.key(0)), attack(jax.random.key(0))
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, attack(jax.random.key(1)).images)


def test_each_query_has_its_own_key():
    seen = []

    def logits_fn(images, key):
        jax.debug.callback(
            lambda data: seen.append(tuple(np.asarray(data).tolist())),
            jax.random.key_data(key),
        )
        return two_layers(images, key)

    attacked = pgd(
        logits_fn, some_images(1, (3, 3, 3)), np.array([0]), jax.random.key(0), steps=4
    )
    jax.block_until_ready(attacked)
    jax.effects_barrier()
    assert len(seen) == attacked.queries[0] == 6
    assert len(set(seen)) == 6


def test_jit_gives_the_same_images():
    images, labels = some_images(3, (5, 4, 3)), np.array([0, 1, 2])
    attack = functools.partial(pgd, two_layers)
    options = {"key": jax.random.key(0), "epsilon": 0.03, "step_size": 0.01}
    eager = attack(images, labels, **options)
    compiled = jax.jit(attack)(images, labels, **options)
    np.testing.assert_allclose(compiled.images, eager.images, rtol=0, atol=1e-6)
    np.testing.assert_allclose(compiled.loss, eager.loss, rtol=1e-5)
    np.testing.assert_array_equal(compiled.success, eager.success)


PIXELS = hnp.arrays(
    np.float32,
    (1, 2, 3, 1),
    elements=st.one_of(
        st.sampled_from([0.0, 1.0, 0.5]),
        st.floats(0, 1, width=32, allow_subnormal=False),
        st.integers(0, 255).map(lambda level: np.float32(level) / np.float32(255)),
    ),
)


@functools.partial(jax.jit, static_argnames="random_start")
def attack_small(images, key, epsilon, step_size, random_start):
    return pgd(
        two_layers,
        images,
        jnp.zeros(1, jnp.int32),
        key,
        epsilon=epsilon,
        step_size=step_size,
        random_start=random_start,
    )


@settings(max_examples=300, deadline=None)
@given(
    images=PIXELS,
    seed=st.integers(0, 1000),
    epsilon=st.one_of(st.just(8 / 255), st.just(0.0), st.floats(2**-20, 1, width=32)),
    step_size=st.one_of(st.just(2 / 255), st.floats(2**-20, 2, width=32)),
    random_start=st.booleans(),
)
def test_result_lies_in_the_ball_and_the_box(
    images, seed, epsilon, step_size, random_start
):
    attacked = attack_small(
        images, jax.random.key(seed), epsilon, step_size, random_start
    )
    result = np.asarray(attacked.images)
    assert result.min() >= 0 and result.max() <= 1
    assert np.abs(result - images).max() <= np.float32(epsilon)


def test_reaches_the_ends_of_the_ball():
    # The guard against rounding must not shrink the ball by more than it has to.
    images = some_images(1, (16, 16, 3))
    weights, _ = linear_model((16, 16, 3))
    attacked = pgd(weights, images, np.array([0]), jax.random.key(0), step_size=1.0)
    moved = np.abs(np.asarray(attacked.images, np.float64) - images)
    free = (images > 8 / 255) & (images < 1 - 8 / 255)
    np.testing.assert_allclose(moved[free], 8 / 255, rtol=0, atol=2**-23)


def test_epsilon_zero_returns_the_image():
    images, labels = some_images(2, (4, 4, 3)), np.array([0, 1])
    attacked = pgd(two_layers, images, labels, jax.random.key(0), epsilon=0)
    np.testing.assert_array_equal(attacked.images, images)


def test_nan_and_zero_gradients_leave_their_pixels():
    def logits_fn(images, key):
        # The slope of sqrt(0) * 0 is NaN; only the last image meets it, in one pixel.
        odd = jnp.sqrt(jnp.maximum(images[:, 0, 0, 0] - 0.9, 0)) * 0
        light = images[:, 0, 1:, 0].sum(axis=1) + odd
        return jnp.stack([-light, light], axis=1)

    images = np.full((2, 1, 3, 2), 0.5, np.float32)
    images[0, 0, 0, 0] = 0.95
    labels, key = np.array([1, 1]), jax.random.key(0)
    slope = jax.grad(lambda x: logits_fn(x, key)[1, 1])(images)
    assert np.isnan(slope[1, 0, 0, 0]) and np.isnan(slope).sum() == 1
    attacked = pgd(logits_fn, images, labels, key, epsilon=0.1, random_start=False)
    moved = np.asarray(attacked.images) - images
    np.testing.assert_allclose(moved[:, 0, 1:, 0], -7 * 2 / 255, atol=1e-6)
    np.testing.assert_array_equal(moved[:, 0, 0, 0], [0, 0])
    np.testing.assert_array_equal(moved[..., 1], np.zeros((2, 1, 3)))


def test_nan_logits_count_as_wrong():
    def logits_fn(images, key):
        return jnp.full((len(images), 2), jnp.nan)

    images, labels = some_images(2, (2, 2, 1)), np.array([0, 1])
    attacked = pgd(logits_fn, images, labels, jax.random.key(0))
    np.testing.assert_array_equal(attacked.success, [True, True])


def test_result_is_a_constant_to_differentiation():
    images, labels = some_images(2, (3, 3, 3)), np.array([0, 1])

    def total(images):
        return pgd(two_layers, images, labels, jax.random.key(0)).images.sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(images)), 0 * images)


def test_keeps_float64():
    with jax.enable_x64(True):
        images = np.random.default_rng(0).random((2, 4, 4, 3))
        attacked = pgd(two_layers, images, np.array([0, 1]), jax.random.key(0))
        assert attacked.images.dtype == np.float64
        assert np.abs(np.asarray(attacked.images) - images).max() <= 8 / 255


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epsilon": -0.1}, "epsilon must be finite and at least 0, got -0.1"),
        ({"epsilon": float("nan")}, "epsilon must be finite"),
        ({"step_size": 0.0}, "step_size must be finite and above 0, got 0.0"),
        ({"step_size": float("inf")}, "step_size must be finite"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
    ],
)
def test_refuses_senseless_settings(setting, message):
    images, labels = some_images(1, (2, 2, 1)), np.array([0])
    with pytest.raises(ValueError, match=message):
        pgd(two_layers, images, labels, jax.random.key(0), **setting)


@pytest.mark.parametrize("value", [-0.001, 1.001, np.nan, np.inf])
def test_refuses_pixels_out_of_range(value):
    images, labels = some_images(2, (2, 3, 1)), np.array([0, 1])
    images[1, 0, 2, 0] = value
    with pytest.raises(ValueError, match=r"images\[1, 0, 2, 0\] is .*not in \[0, 1\]"):
        pgd(two_layers, images, labels, jax.random.key(0))


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_refuses_labels_out_of_range(label):
    images, labels = some_images(2, (2, 3, 1)), np.array([0, label])
    with pytest.raises(ValueError, match=rf"labels\[1\] is {label}, .* 0 to 3"):
        pgd(two_layers, images, labels, jax.random.key(0))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 3, 3, 1), np.uint8), np.array([0, 1])),
        (np.zeros((2, 3, 3, 1), np.float32), np.array([0.0, 1.0])),
        (np.zeros((2, 3, 3, 1), np.float32), np.array([0, 1, 2])),
        (np.zeros((3, 3, 1), np.float32), np.array([0, 1, 2])),
    ],
)
def test_refuses_wrong_shapes_and_dtypes(images, labels):
    # The second is jaxtyping's, where its checks are on.
    with pytest.raises((AssertionError, TypeError)):
        pgd(two_layers, images, labels, jax.random.key(0))


def test_refuses_logits_of_another_batch():
    images, labels = some_images(2, (3, 3, 1)), np.array([0, 1])
    with pytest.raises(ValueError, match=r"logits_fn returned \(1, 4\) for 2 images"):
        pgd(lambda x, key: two_layers(x[:1], key), images, labels, jax.random.key(0))
