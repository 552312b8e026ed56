import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from networks import linear, noting_keys, some_images

from attacks import fgsm, losses, mi_fgsm, pgd

CLASSES = 4


def two_layers(images, key):
    """A smooth nonlinear random classifier."""
    rng = np.random.default_rng(9)
    first = rng.normal(size=(images[0].size, 16)).astype(images.dtype)
    second = rng.normal(size=(16, CLASSES)).astype(images.dtype)
    hidden = jnp.tanh(images.reshape(len(images), -1) @ first)
    return hidden @ second + 0.1 * jax.random.uniform(key, (CLASSES,))


def run(logits_fn, images, labels, seed=0, **options):
    attack = functools.partial(pgd, logits_fn, **options)
    return jax.jit(attack)(images, labels, jax.random.key(seed))


@pytest.mark.parametrize(
    ("shape", "random_start"), [((5, 5, 3), False), ((2, 7, 1), True)]
)
def test_two_classes_reach_the_linear_optimum(shape, random_start):
    # For two classes the loss rises along w_other - w_label everywhere, so the best
    # perturbation is epsilon times its sign, clipped to the box.
    logits_fn, weights = linear(shape, CLASSES)
    two = lambda images, key: logits_fn(images, key)[:, :2]
    images, labels = some_images(6, shape), np.array([0, 1, 0, 1, 0, 1])
    epsilon = 0.1
    options = {"epsilon": epsilon, "step_size": 0.05, "random_start": random_start}
    attacked = run(two, images, labels, steps=5, **options)
    slopes = (weights[:, 1 - labels] - weights[:, labels]).T.reshape(images.shape)
    expected = np.clip(images + epsilon * np.sign(slopes), 0, 1)
    np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1e-6)
    logits = expected.reshape(6, -1) @ weights[:, :2]
    margin = logits[np.arange(6), labels] - logits[np.arange(6), 1 - labels]
    np.testing.assert_array_equal(attacked.success, margin < 0)
    np.testing.assert_allclose(attacked.loss, np.log1p(np.exp(-margin)), rtol=1e-4)
    np.testing.assert_array_equal(attacked.queries, np.full(6, 5 + 1))


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
    logits_fn, weights = linear(shape, CLASSES)
    weights = weights / 10  # keeps the softmax, and so the gradient, away from 0
    soft = lambda images, key: logits_fn(images, key) / 10
    images, labels = some_images(5, shape), np.array([0, 1, 2, 3, 0])
    options = {"epsilon": 8 / 255, "step_size": 2 / 255}
    start = run(soft, images, labels, seed=3, steps=0, **options).images
    attacked = run(soft, images, labels, seed=3, steps=steps, **options)
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
    attacked = run(two_layers, images, np.array([0, 1]), epsilon=0.1, steps=0)
    shares = (np.asarray(attacked.images) - images + 0.1) / 0.2
    for image in shares:
        assert scipy.stats.kstest(image.ravel(), "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(shares[0].ravel(), shares[1].ravel())[0, 1]) < 0.05


def test_no_random_start_and_no_steps_is_the_image():
    images, labels = some_images(2, (3, 4, 3)), np.array([0, 1])
    attacked = run(two_layers, images, labels, steps=0, random_start=False)
    np.testing.assert_array_equal(attacked.images, images)
    np.testing.assert_array_equal(attacked.queries, [1, 1])


def test_an_image_does_not_depend_on_its_batch():
    images, labels = some_images(7, (6, 5, 3)), np.arange(7) % CLASSES
    logits_fn, _ = linear((6, 5, 3), CLASSES)
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
    logits_fn, seen = noting_keys(two_layers)
    options = {"steps": 4, "restarts": 2, "eot_samples": 3, "evaluations": 5}
    attacked = run(logits_fn, some_images(1, (3, 3, 3)), np.array([0]), **options)
    jax.block_until_ready(attacked)
    jax.effects_barrier()
    assert len(seen) == attacked.queries[0] == 35
    assert len(set(seen)) == 35


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


@settings(max_examples=100, deadline=None)
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
    # The guard against rounding must not shrink the ball more than necessary.
    images = some_images(1, (16, 16, 3))
    weights, _ = linear((16, 16, 3), CLASSES)
    attacked = run(weights, images, np.array([0]), step_size=1.0)
    moved = np.abs(np.asarray(attacked.images, np.float64) - images)
    free = (images > 8 / 255) & (images < 1 - 8 / 255)
    np.testing.assert_allclose(moved[free], 8 / 255, rtol=0, atol=2**-23)


def test_epsilon_zero_returns_the_image():
    images, labels = some_images(2, (4, 4, 3)), np.array([0, 1])
    attacked = run(two_layers, images, labels, epsilon=0)
    np.testing.assert_array_equal(attacked.images, images)


def test_nan_and_zero_gradients_leave_their_pixels():
    def logits_fn(images, key):
        # The gradient of sqrt(0) * 0 is NaN, only in one pixel of the last image.
        odd = jnp.sqrt(jnp.maximum(images[:, 0, 0, 0] - 0.9, 0)) * 0
        light = images[:, 0, 1:, 0].sum(axis=1) + odd
        return jnp.stack([-light, light], axis=1)

    images = np.full((2, 1, 3, 2), 0.5, np.float32)
    images[0, 0, 0, 0] = 0.95
    labels, key = np.array([1, 1]), jax.random.key(0)
    slope = jax.grad(lambda x: logits_fn(x, key)[1, 1])(images)
    assert np.isnan(slope[1, 0, 0, 0]) and np.isnan(slope).sum() == 1
    attacked = run(logits_fn, images, labels, epsilon=0.1, random_start=False)
    moved = np.asarray(attacked.images) - images
    np.testing.assert_allclose(moved[:, 0, 1:, 0], -7 * 2 / 255, atol=1e-6)
    np.testing.assert_array_equal(moved[:, 0, 0, 0], [0, 0])
    np.testing.assert_array_equal(moved[..., 1], np.zeros((2, 1, 3)))


def test_nan_logits_count_as_wrong():
    def logits_fn(images, key):
        return jnp.full((len(images), 2), jnp.nan)

    images, labels = some_images(2, (2, 2, 1)), np.array([0, 1])
    attacked = run(logits_fn, images, labels)
    np.testing.assert_array_equal(attacked.success, [True, True])


def test_result_is_constant_under_differentiation():
    images, labels = some_images(2, (3, 3, 3)), np.array([0, 1])

    def total(images):
        return pgd(two_layers, images, labels, jax.random.key(0)).images.sum()

    slope = jax.jit(jax.grad(total))(jnp.asarray(images))
    np.testing.assert_array_equal(slope, 0 * images)


def test_keeps_float64():
    with jax.enable_x64(True):
        images = np.random.default_rng(0).random((2, 4, 4, 3))
        attacked = run(two_layers, images, np.array([0, 1]))
        assert attacked.images.dtype == np.float64
        assert np.abs(np.asarray(attacked.images) - images).max() <= 8 / 255


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
    # The second error is jaxtyping's, if its checks are on.
    with pytest.raises((ValueError, TypeError)):
        pgd(two_layers, images, labels, jax.random.key(0))


def test_refuses_logits_of_another_batch():
    images, labels = some_images(2, (3, 3, 1)), np.array([0, 1])
    with pytest.raises(ValueError, match=r"logits_fn returned \(1, 4\) for 2 images"):
        pgd(lambda x, key: two_layers(x[:1], key), images, labels, jax.random.key(0))


def soft_linear(shape, seed=0):
    """Logits and the float64 weights behind them, small enough for a softmax."""
    logits_fn, weights = linear(shape, CLASSES, seed=seed)
    return lambda images, key: logits_fn(images, key) / 10, weights / 10


def inner_images(n, shape, seed=1):
    """Images far enough from the bounds of the box."""
    return (0.4 + 0.2 * some_images(n, shape, seed)).astype(np.float32)


def sizes(difference, norm):
    flat = np.asarray(difference, np.float64).reshape(len(difference), -1)
    return np.linalg.norm(flat, {"l2": 2, "l1": 1, "linf": np.inf}[norm], axis=1)


def test_l2_reaches_the_linear_optimum():
    shape, labels = (4, 3, 2), np.array([0, 1, 1, 0])
    logits_fn, weights = linear(shape, CLASSES)
    two = lambda images, key: logits_fn(images, key)[:, :2]
    images = inner_images(4, shape)
    options = {"norm": "l2", "epsilon": 0.2, "step_size": 0.1, "steps": 40}
    attacked = run(two, images, labels, loss=losses.margin, **options)
    slopes = (weights[:, 1 - labels] - weights[:, labels]).T
    expected = 0.2 * slopes / np.linalg.norm(slopes, axis=1, keepdims=True)
    moved = np.asarray(attacked.images, np.float64) - images
    np.testing.assert_allclose(moved.reshape(4, -1), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("norm", "epsilon"), [("l2", 0.5), ("l1", 2.0)])
def test_other_balls_and_the_box_hold_the_result(norm, epsilon):
    images, labels = some_images(5, (6, 5, 3)), np.array([0, 1, 2, 3, 0])
    options = {"norm": norm, "step_size": epsilon / 2, "steps": 6}
    attack = jax.jit(functools.partial(pgd, two_layers, **options))
    attack = functools.partial(attack, images, labels, jax.random.key(0))
    attacked = attack(epsilon=epsilon)
    result = np.asarray(attacked.images)
    assert result.min() >= 0 and result.max() <= 1
    reached = sizes(result - images, norm)
    assert (reached <= epsilon).all() and (reached > 0.8 * epsilon).all()
    np.testing.assert_array_equal(attack(epsilon=0.0).images, images)


@pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("l1", 1)])
def test_a_step_goes_along_the_gradient(norm, order):
    shape, labels = (4, 3, 2), np.array([0, 1, 2])
    logits_fn, weights = soft_linear(shape)
    images = inner_images(3, shape)
    options = {"norm": norm, "epsilon": 1.0, "step_size": 0.05, "random_start": False}
    attacked = run(logits_fn, images, labels, steps=1, **options)
    for image, label, result in zip(images, labels, attacked.images, strict=True):
        shares = scipy.special.softmax(image.ravel().astype(np.float64) @ weights)
        shares[label] -= 1
        slope = weights @ shares
        expected = 0.05 * slope / np.linalg.norm(slope, order)
        moved = (np.asarray(result, np.float64) - image).ravel()
        np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", [None, losses.targeted_margin, losses.targeted_dlr])
def test_targets_are_approached(loss):
    shape = (4, 3, 2)
    logits_fn, weights = soft_linear(shape)
    images = inner_images(5, shape)
    labels = (images.reshape(5, -1).astype(np.float64) @ weights).argmax(axis=1)
    targets = (labels + 1) % CLASSES
    attack = jax.jit(
        functools.partial(pgd, logits_fn, step_size=0.03, steps=20, loss=loss)
    )
    attack = functools.partial(attack, images, labels, jax.random.key(0))
    attacked = attack(targets=targets, epsilon=0.3)
    logits = np.asarray(attacked.images, np.float64).reshape(5, -1) @ weights
    np.testing.assert_array_equal(attacked.success, logits.argmax(axis=1) == targets)
    # The ratio only needs the target to beat the label; a third class may win.
    rows = np.arange(5)
    assert (logits[rows, targets] > logits[rows, labels]).all()
    assert loss is losses.targeted_dlr or attacked.success.all()
    if loss is None:
        expected = scipy.special.log_softmax(logits, axis=1)[rows, targets]
        np.testing.assert_allclose(attacked.loss, expected, rtol=1e-4)
    assert not attack(targets=targets, epsilon=1e-4).success.any()


def test_keep_best_returns_the_best_iterate():
    # Too large a step jumps over the hill and back.
    def hill(images, key):
        height = 1 - 50 * (images.mean(axis=(1, 2, 3)) - 0.52) ** 2
        return jnp.stack([jnp.zeros_like(height), height - 2], axis=1)

    images, labels = np.full((1, 2, 2, 1), 0.5, np.float32), np.array([0])
    options = {"epsilon": 0.1, "step_size": 0.022, "random_start": False}
    for steps in (3, 4):
        last, best = (
            run(hill, images, labels, steps=steps, keep_best=keep, **options)
            for keep in (False, True)
        )
        # 0.5, 0.522, 0.5, ...: the second is next to the top.
        place = 0.522 if steps % 2 else 0.5
        np.testing.assert_allclose(last.images, place, atol=1e-6)
        np.testing.assert_allclose(best.images, 0.522, atol=1e-6)
    assert best.loss > last.loss


def test_a_misclassification_is_preferred_to_a_higher_loss():
    # Class 1 wins at 0.52; further on the loss grows, but class 0 wins.
    def odd(images, key):
        x = images.mean(axis=(1, 2, 3))
        near = jnp.where(jnp.abs(x - 0.52) < 0.005, 0.1, -1.0)
        return jnp.stack([jnp.zeros_like(x), near], axis=1)

    def further(logits, labels):
        return -logits[:, 1]

    images, labels = np.full((1, 1, 2, 1), 0.52, np.float32), np.array([0])
    sloped = lambda images, key: (
        odd(images, key)
        - jnp.stack([0 * images[:, 0, 0, 0], images.mean(axis=(1, 2, 3))], axis=1)
    )
    shifted = lambda images, key: sloped(images, key).at[:, 1].add(0.52)
    options = {"step_size": 0.01, "epsilon": 0.1, "steps": 3, "random_start": False}
    attack = functools.partial(
        run, shifted, images, labels, loss=further, keep_best=True, **options
    )
    attacked = attack()
    np.testing.assert_array_equal(attacked.images, images)
    assert attacked.success.all()
    # For a random classifier one misclassification proves nothing: the loss decides.
    averaged = attack(eot_samples=2)
    np.testing.assert_allclose(averaged.images, 0.55, atol=1e-6)


def test_restarts_start_elsewhere_and_keep_the_best():
    images, labels = some_images(6, (5, 4, 3)), np.array([0, 1, 2, 3, 0, 1])
    still = lambda images, key: two_layers(images, jax.random.key(0))
    options = {"epsilon": 0.05, "step_size": 0.02, "steps": 2}
    one = run(still, images, labels, **options)
    several = run(still, images, labels, restarts=4, **options)
    np.testing.assert_array_equal(several.queries, np.full(6, 4 * 3 + 1))
    wrong = lambda attacked: np.asarray(attacked.success).astype(int)
    assert (wrong(several) >= wrong(one)).all()
    alike = wrong(several) == wrong(one)
    assert (several.loss >= one.loss - 1e-6)[alike].all()
    assert (np.asarray(several.images) != one.images).any(axis=(1, 2, 3)).any()
    # The first run is the same as without restarts.
    equal = (np.asarray(several.images) == one.images).all(axis=(1, 2, 3))
    assert (np.asarray(several.loss) > np.asarray(one.loss))[~equal & alike].all()


def test_momentum_agrees_with_float64_loop():
    shape, labels = (4, 3, 2), np.array([0, 1, 2])
    logits_fn, weights = soft_linear(shape)
    images = some_images(3, shape)
    attack = jax.jit(functools.partial(mi_fgsm, logits_fn, steps=5, momentum=0.7))
    attacked = attack(images, labels, jax.random.key(0), epsilon=0.1)
    for image, label, result in zip(images, labels, attacked.images, strict=True):
        clean = image.ravel().astype(np.float64)
        current, summed = clean, np.zeros(clean.size)
        for _ in range(5):
            shares = scipy.special.softmax(current @ weights)
            shares[label] -= 1
            slope = weights @ shares
            summed = 0.7 * summed + slope / np.abs(slope).mean()
            current = current + 0.1 / 5 * np.sign(summed)
            current = np.clip(current, clean - 0.1, clean + 0.1).clip(0, 1)
        np.testing.assert_allclose(np.ravel(result), current, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(attacked.queries, np.full(3, 5 + 1))
    zero = attack(images, labels, jax.random.key(0), epsilon=0.0)
    np.testing.assert_array_equal(zero.images, images)


def test_fgsm_is_one_step_to_the_edge():
    shape, labels = (4, 3, 2), np.array([0, 1, 2])
    logits_fn, weights = soft_linear(shape)
    images = some_images(3, shape)
    one_step = jax.jit(functools.partial(fgsm, logits_fn))
    for epsilon in (0.0, 0.05):
        attacked = one_step(images, labels, jax.random.key(0), epsilon=epsilon)
        expected = reference_pgd(images, images, labels, weights, epsilon, epsilon, 1)
        np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(attacked.queries, np.full(3, 1 + 1))


def test_a_schedule_gives_each_step_its_size():
    def light(images, key):
        total = images.mean(axis=(1, 2, 3))
        return jnp.stack([-total, total], axis=1)

    images, labels = np.full((1, 3, 2, 1), 0.5, np.float32), np.array([0])
    schedule = optax.exponential_decay(0.08, transition_steps=1, decay_rate=0.5)
    options = {"epsilon": 0.4, "step_size": schedule, "random_start": False}
    for steps in (1, 3):
        attacked = run(light, images, labels, steps=steps, **options)
        expected = 0.5 + sum(0.08 * 0.5**i for i in range(steps))
        np.testing.assert_allclose(attacked.images, expected, atol=1e-6)


def test_samples_step_along_the_mean_gradient():
    # About one key in three has an opposite and steeper gradient.
    def logits_fn(images, key):
        slope = jnp.where(jax.random.bernoulli(key, 0.3), -1.0, 1.0)
        total = slope * images.mean(axis=(1, 2, 3))
        return jnp.stack([-total, total], axis=1)

    images, labels = np.full((2, 3, 2, 1), 0.5, np.float32), np.array([0, 0])
    options = {"epsilon": 0.2, "step_size": 0.01, "steps": 20, "random_start": False}
    attack = functools.partial(run, logits_fn, images, labels, loss=losses.margin)
    averaged = attack(eot_samples=31, eot_chunk=8, evaluations=9, **options)
    np.testing.assert_array_equal(averaged.queries, np.full(2, 20 * 31 + 9))
    np.testing.assert_allclose(averaged.images, 0.7, atol=1e-6)
    single = attack(**options)
    assert (np.asarray(single.images) < 0.69).all()


def test_iterates_with_nan_logits_are_counted_but_not_returned():
    # Of the steps of 0.03 up from 0.5, every second has NaN logits: 0.53, 0.59, ...
    def broken(images, key):
        total = images.mean(axis=(1, 2, 3))
        odd = jnp.round((total - 0.5) / 0.03) % 2 == 1
        logits = jnp.stack([0.51 - total, total - 0.51], axis=1)
        return jnp.where(odd[:, None], jnp.nan, logits) + 0 * total[:, None]

    images, labels = np.full((2, 2, 2, 1), 0.5, np.float32), np.array([0, 0])
    images[1] = 0.68  # misclassified when clean; NaN at 0.71
    options = {"step_size": 0.03, "epsilon": 0.1, "random_start": False}
    attacked = run(broken, images, labels, steps=1, **options)
    # The last iterate has NaN logits, so the start is returned.
    np.testing.assert_allclose(attacked.images[0], 0.5, atol=1e-6)
    np.testing.assert_allclose(attacked.images[1], 0.68, atol=1e-6)
    np.testing.assert_array_equal(attacked.success, [False, True])
    np.testing.assert_array_equal(attacked.not_finite, [1, 1])
    assert np.isfinite(attacked.loss).all()


def test_without_finite_logits_the_image_is_returned():
    images, labels = some_images(2, (2, 2, 1)), np.array([0, 1])
    nothing = lambda images, key: jnp.full((len(images), 2), jnp.nan)
    attacked = run(nothing, images, labels, steps=3, restarts=2)
    np.testing.assert_array_equal(attacked.images, images)
    np.testing.assert_array_equal(attacked.queries, [9, 9])
    np.testing.assert_array_equal(attacked.not_finite, [9, 9])
    aimed = run(nothing, images, labels, targets=1 - labels)
    assert not aimed.success.any()  # no class is predicted


@pytest.mark.parametrize(
    "options",
    [
        {"restarts": 2, "keep_best": True, "norm": "l2", "step_size": 0.1},
        {"momentum": 0.9, "norm": "l1", "epsilon": 1.0, "step_size": 0.3},
    ],
)
def test_an_image_with_options_does_not_depend_on_its_batch(options):
    def model(images, key):  # sums in a fixed order
        flat = (images - 0.5).reshape(len(images), -1, 1)
        return jnp.tanh(flat * weights).sum(axis=1)

    weights = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    images, labels = some_images(4, (4, 3, 2)), np.array([0, 1, 2, 0])
    attack = jax.jit(functools.partial(pgd, model, **options))
    together = attack(images, labels, jax.random.key(0))
    for i in (1, 3):
        part = slice(i, i + 1)
        alone = attack(images[part], labels[part], jax.random.key(0), first_index=i)
        np.testing.assert_allclose(
            alone.images, together.images[part], rtol=0, atol=2e-7
        )
        np.testing.assert_array_equal(alone.success, together.success[part])


def test_refuses_too_few_classes_for_the_loss():
    two = lambda images, key: two_layers(images, key)[:, :2]
    images, labels = some_images(1, (2, 2, 1)), np.array([0])
    with pytest.raises(ValueError, match="compares 3 logits, logits_fn has 2"):
        pgd(two, images, labels, jax.random.key(0), loss=losses.dlr)
