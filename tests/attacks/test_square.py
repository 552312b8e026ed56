import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import linear, some_images

from attacks import losses
from attacks.square import proposal_sides, square, two_peaks

CLASSES = 3


def named(logits_fn, images):
    return np.array(logits_fn(images, jax.random.key(0)).argmax(axis=1))


def loss_of(loss, logits_fn, images, labels):
    return loss(logits_fn(jnp.asarray(images), None), jnp.asarray(labels))


def test_reaches_the_optimum_of_a_linear_model():
    # A bias keeps the prediction correct, so the search reaches the optimum: epsilon
    # times the sign of the gradient, clipped to the box.
    shape = (5, 4, 1)
    logits_fn, weights = linear(shape, CLASSES, in_order=True)
    bias = jnp.array([100.0, 0.0])
    two = lambda images, key: logits_fn(images, key)[:, :2] + bias
    images, labels = some_images(3, shape), np.array([0, 0, 0])
    attack = jax.jit(functools.partial(square, two, queries=1500, epsilon=0.1))
    attacked = attack(images, labels, jax.random.key(0))
    signs = np.sign(weights[:, 1] - weights[:, 0]).reshape(shape)
    expected = np.clip(images + 0.1 * signs, 0, 1)
    np.testing.assert_allclose(attacked.images, expected, rtol=0, atol=1e-6)
    assert not attacked.success.any()
    np.testing.assert_array_equal(attacked.queries, np.full(3, 1 + 1 + 1500 + 1))


def test_l2_approaches_the_optimum_of_a_linear_model():
    shape = (10, 12, 1)
    _, noise = linear(shape, CLASSES)
    smooth = noise[:, 0].reshape(shape).astype(np.float32)
    for axis in (0, 1):
        smooth = smooth + np.roll(smooth, 1, axis)
    slope = smooth / np.linalg.norm(smooth)

    def logits_fn(images, key):
        gain = (images * slope).sum(axis=(1, 2, 3))
        return jnp.stack([jnp.full_like(gain, 100), gain], axis=1)

    images, labels = np.full((4, *shape), 0.5, np.float32), np.zeros(4, int)
    attack = functools.partial(square, logits_fn, norm="l2", epsilon=1.0, queries=3000)
    attacked = jax.jit(attack)(images, labels, jax.random.key(0))
    moved = np.asarray(attacked.images) - 0.5
    lengths = np.linalg.norm(moved.reshape(4, -1), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-4)
    gains = (moved * slope).sum(axis=(1, 2, 3))  # 1 along the gradient
    assert (gains > 0.7).all()


@pytest.mark.parametrize(
    ("norm", "shape"), [("linf", (7, 12, 3)), ("l2", (12, 7, 1)), ("l2", (2, 3, 3))]
)
def test_result_lies_in_the_ball_and_the_box(norm, shape):
    logits_fn, _ = linear(shape, CLASSES, in_order=True)
    images = some_images(8, shape)
    images[0], images[1] = 0, 1
    labels = named(logits_fn, images)
    attack = jax.jit(
        functools.partial(square, logits_fn, norm=norm, queries=30, restarts=2)
    )
    some = 0
    for epsilon in (0.0, 1e-3, 0.05, 0.5):
        attacked = attack(images, labels, jax.random.key(0), epsilon=epsilon)
        result = np.asarray(attacked.images)
        assert result.min() >= 0 and result.max() <= 1
        moved = (result - images).reshape(8, -1)
        sizes = np.linalg.norm(moved, np.inf if norm == "linf" else 2, axis=1)
        assert (sizes <= np.float32(epsilon)).all()
        wrong = named(logits_fn, result) != labels
        np.testing.assert_array_equal(attacked.success, wrong)
        some += wrong.sum()
        if epsilon == 0:
            np.testing.assert_array_equal(result, images)
    assert some > 0


def test_an_image_stops_once_it_is_misclassified():
    shape = (6, 5, 2)
    logits_fn, _ = linear(shape, CLASSES, in_order=True)
    images = some_images(12, shape)
    labels = named(logits_fn, images)
    labels[:2] = (labels[:2] + 1) % CLASSES  # misclassified when clean
    attack = functools.partial(square, logits_fn, epsilon=0.05, resc_schedule=False)
    few, many, again = (
        jax.jit(functools.partial(attack, queries=queries, restarts=restarts))(
            images, labels, jax.random.key(0)
        )
        for queries, restarts in ((15, 1), (40, 1), (15, 2))
    )
    done = np.asarray(few.success)
    assert 3 < done.sum() < 12
    np.testing.assert_array_equal(few.images[:2], images[:2])
    np.testing.assert_array_equal(few.queries[:2], [2, 2])
    np.testing.assert_array_equal(np.asarray(few.queries)[~done], 1 + 1 + 15 + 1)
    assert len(set(np.asarray(few.queries)[done])) > 2
    for other in (many, again):
        np.testing.assert_array_equal(other.images[done], few.images[done])
        np.testing.assert_array_equal(other.queries[done], few.queries[done])
        assert (other.loss >= few.loss).all()
        assert (np.asarray(other.loss)[~done] > np.asarray(few.loss)[~done]).any()


def test_an_image_does_not_depend_on_its_batch():
    shape = (6, 5, 3)
    logits_fn, _ = linear(shape, CLASSES, in_order=True)
    images = some_images(5, shape)
    labels = named(logits_fn, images)
    attack = jax.jit(
        functools.partial(
            square, logits_fn, key=jax.random.key(5), norm="l2", queries=40
        )
    )
    batch = attack(images, labels)
    for i in range(5):
        alone = attack(images[i : i + 1], labels[i : i + 1], first_index=i)
        # The order of summation depends on the batch size.
        np.testing.assert_allclose(alone.images[0], batch.images[i], rtol=0, atol=1e-6)
        assert alone.queries[0] == batch.queries[i]
    others = images.copy()
    others[1:] = 0.5
    np.testing.assert_array_equal(attack(others, labels).images[0], batch.images[0])
    first, second = np.asarray(
        attack(images[:1].repeat(2, 0), labels[:1].repeat(2)).images
    )
    assert not np.array_equal(first, second)


def test_same_key_same_result_other_key_other_result():
    shape = (6, 6, 1)
    logits_fn, _ = linear(shape, CLASSES, in_order=True)
    images = some_images(3, shape)
    labels = named(logits_fn, images)
    attack = jax.jit(functools.partial(square, logits_fn, images, labels, queries=9))
    first, again = attack(jax.random.key(0)), attack(jax.random.key(0))
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, attack(jax.random.key(1)).images)


def test_counts_its_queries():
    seen = []
    shape = (4, 4, 1)
    model, _ = linear(shape, CLASSES, in_order=True)

    def logits_fn(images, key):
        jax.debug.callback(
            lambda data: seen.append(tuple(np.asarray(data).tolist())),
            jax.random.key_data(key),
        )
        return model(images, key)

    images = some_images(1, shape)
    options = {"queries": 7, "restarts": 2, "epsilon": 1e-5}
    attack = jax.jit(functools.partial(square, logits_fn, **options))
    attacked = attack(images, named(model, images), jax.random.key(0))
    jax.block_until_ready(attacked)
    jax.effects_barrier()
    assert len(seen) == attacked.queries[0] == 1 + 2 * (1 + 7) + 1
    assert len(set(seen)) == len(seen)


def test_one_random_error_is_no_success():
    # Correct with probability 90 % for any image.
    def logits_fn(images, key):
        wrong = jax.random.bernoulli(key, 0.1, (len(images),))
        light = images.mean(axis=(1, 2, 3)) / 100
        return jnp.stack([1.0 - wrong - light, wrong + light], axis=1)

    images, labels = some_images(16, (4, 4, 1)), np.zeros(16, int)
    attack = functools.partial(square, logits_fn, images, labels, queries=60)
    once = jax.jit(attack)(jax.random.key(0))
    assert (np.asarray(once.queries) < 40).mean() > 0.7  # stopped by a random error
    often = jax.jit(functools.partial(attack, evaluations=9))(jax.random.key(0))
    np.testing.assert_array_equal(often.queries, np.full(16, 9 * (1 + 1 + 60) + 9))
    assert not often.success.any()


def test_iterates_with_nan_logits_are_not_returned():
    shape = (4, 4, 1)
    model, _ = linear(shape, CLASSES, in_order=True)

    def logits_fn(images, key):
        silent = images[:, 0, 0, 0] > 0.52
        return jnp.where(silent[:, None], jnp.nan, model(images, key))

    images = np.full((6, *shape), 0.5, np.float32)
    labels = named(model, images)
    attack = jax.jit(functools.partial(square, logits_fn, queries=30, epsilon=0.03))
    attacked = attack(images, labels, jax.random.key(0))
    assert (np.asarray(attacked.images)[:, 0, 0, 0] <= 0.52).all()
    assert np.isfinite(attacked.loss).all()
    assert (np.asarray(attacked.not_finite) > 0).any()
    assert (attacked.not_finite < attacked.queries).all()
    silent = lambda images, key: jnp.full((len(images), 3), jnp.nan)
    attack = jax.jit(functools.partial(square, silent, queries=3))
    attacked = attack(images, labels, jax.random.key(0))
    np.testing.assert_array_equal(attacked.images, images)
    np.testing.assert_array_equal(attacked.not_finite, np.full(6, 6))


def test_other_losses():
    shape = (5, 5, 1)
    logits_fn, _ = linear(shape, CLASSES, in_order=True)
    images = some_images(4, shape)
    labels = named(logits_fn, images)
    options = {"queries": 50, "epsilon": 0.05}
    key = jax.random.key(0)
    for loss in (losses.margin, losses.cross_entropy):
        attack = jax.jit(functools.partial(square, logits_fn, loss=loss, **options))
        attacked = attack(images, labels, key)
        now = loss_of(loss, logits_fn, attacked.images, labels)
        np.testing.assert_allclose(attacked.loss, now, rtol=1e-3, atol=1e-5)
        assert (attacked.loss > loss_of(loss, logits_fn, images, labels)).all()


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("queries", [300, 5000])
def test_squares_shrink_as_in_the_paper(queries, rescaled):
    # p is 0.8 and is halved at 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000.
    for norm, least in (("linf", 1), ("l2", 3)):
        sides = proposal_sides((32, 32, 3), queries, 0.8, rescaled, norm)
        assert len(sides) == queries
        for i in range(0, queries, 7):
            at = int(i / queries * 10_000) if rescaled else i
            p = 0.8
            for end in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
                p = p / 2 if at > end else p
            side = max(round(math.sqrt(p * 32 * 32)), least)
            side += norm == "l2" and side % 2 == 0
            assert sides[i] == side
    for shape in ((3, 20, 1), (8, 4, 3), (2, 2, 1), (1, 5, 1)):
        for norm in ("linf", "l2"):
            sides = proposal_sides(shape, queries, 1.0, rescaled, norm)
            assert sides.min() >= 1 and sides.max() <= min(shape[:2])
            assert norm == "linf" or (sides % 2 == 1).all()


@pytest.mark.parametrize("side", [1, 2, 3, 6, 7, 29])
def test_two_peaks_are_nested_squares(side):
    # Eq. (2) of the paper: for each k a square of radius k adds 1 / (k + 1)^2.
    halves = []
    for height in (side // 2, side - side // 2):
        hill = np.zeros((height, side))
        for k in range(max(height, side) // 2 + 1):
            top, left = height // 2 - k, side // 2 - k
            rows = slice(max(top, 0), top + 2 * k + 1)
            hill[rows, max(left, 0) : left + 2 * k + 1] += 1 / (k + 1) ** 2
        halves.append(hill / np.linalg.norm(hill) if height else hill)
    expected = np.concatenate([halves[0], -halves[1]])
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(two_peaks(side), expected, rtol=1e-12)


def test_keeps_float64(x64):
    images = np.random.default_rng(0).random((2, 5, 4, 3))
    logits_fn, _ = linear((5, 4, 3), CLASSES, in_order=True)
    attack = jax.jit(functools.partial(square, logits_fn, queries=5))
    attacked = attack(images, named(logits_fn, images), jax.random.key(0))
    assert attacked.images.dtype == np.float64
    moved = np.asarray(attacked.images) - images
    assert 0 < np.abs(moved).max() <= 8 / 255
