import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from networks import linear, noting_keys, some_images

from attacks import norms
from attacks.fab import fab, fab_minimal, shortest_move

CLASSES = 4
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


def two_layers(images, key):
    """A smooth nonlinear classifier."""
    rng = np.random.default_rng(9)
    first = rng.normal(size=(images[0].size, 16)).astype(images.dtype)
    second = rng.normal(size=(16, CLASSES)).astype(images.dtype)
    hidden = jnp.tanh((images - 0.5).reshape(len(images), -1) @ first / 4)
    return hidden @ second


def named(logits_fn, images):
    return np.array(logits_fn(images, jax.random.key(0)).argmax(axis=1))


compiled_move = jax.jit(shortest_move, static_argnames="norm")


def moves_of(points, normals, amounts, norm):
    return np.asarray(compiled_move(points, normals, amounts, norm))


def shortest(point, normal, amount, norm):
    """The length of the shortest d with w d = a and p + d in [0, 1], by SciPy."""
    n, bounds = len(point), np.stack([-point, 1 - point], axis=1)
    if norm == "linf":  # min s where -s <= d <= s
        eye, ones = np.eye(n), np.ones((n, 1))
        return scipy.optimize.linprog(
            np.r_[np.zeros(n), 1],
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(2 * n),
            A_eq=np.r_[normal, 0][None],
            b_eq=[amount],
            bounds=[*bounds, (0, None)],
        ).fun
    if norm == "l1":  # d = up - down
        return scipy.optimize.linprog(
            np.ones(2 * n),
            A_eq=np.r_[normal, -normal][None],
            b_eq=[amount],
            bounds=[(0, x) for x in np.r_[1 - point, point]],
        ).fun
    # The dual of the quadratic program has one variable.
    cut = lambda level: np.clip(level * normal, *bounds.T)
    ends = np.array([-1, 1]) * 2 / np.abs(normal[normal != 0]).min()
    level = scipy.optimize.brentq(
        lambda level: normal @ cut(level) - amount, *ends, xtol=1e-15, rtol=1e-15
    )
    return np.linalg.norm(cut(level))


@pytest.mark.parametrize("norm", norms.NORMS)
def test_shortest_move_matches_scipy(norm, x64):
    rng = np.random.default_rng(0)
    n, shape = 40, (2, 3, 2)
    points = rng.random((n, *shape))
    points[::4] = np.round(points[::4])  # in corners
    normals = rng.normal(size=(n, *shape)) * (rng.random((n, *shape)) > 0.2)
    normals[1::4] = np.round(normals[1::4])  # many entries of equal size
    flat_points, flat_normals = points.reshape(n, -1), normals.reshape(n, -1)
    away = np.where(flat_normals > 0, 1 - flat_points, -flat_points)
    back = np.where(flat_normals < 0, 1 - flat_points, -flat_points)
    most = (flat_normals * away).sum(axis=1)
    least = (flat_normals * back).sum(axis=1)
    amounts = least + rng.random(n) * (most - least)
    moves = moves_of(points, normals, amounts, norm).reshape(n, -1)
    np.testing.assert_allclose((flat_normals * moves).sum(axis=1), amounts, atol=1e-12)
    assert ((flat_points + moves > -1e-15) & (flat_points + moves < 1 + 1e-15)).all()
    np.testing.assert_array_equal(moves[flat_normals == 0], 0)
    lengths = np.linalg.norm(moves, ORDER[norm], axis=1)
    expected = [
        shortest(*args, norm)
        for args in zip(flat_points, flat_normals, amounts, strict=True)
    ]
    np.testing.assert_allclose(lengths, expected, rtol=1e-9, atol=1e-12)
    # Out of reach: to the nearest vertex.
    moves = moves_of(points, normals, most + 1, norm).reshape(n, -1)
    expected = np.where(flat_normals == 0, 0, away)
    np.testing.assert_allclose(moves, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("norm", norms.NORMS)
@pytest.mark.parametrize("scale", [1e-25, 1, 1e25])
def test_shortest_move_in_float32(norm, scale):
    rng = np.random.default_rng(0)
    points = rng.random((3, 32, 24, 3), np.float32)
    normals = rng.normal(size=points.shape).astype(np.float32)
    amounts = np.array([-300.0, 0.0, 500.0], np.float32)
    scaled = np.float32(scale)
    moves = moves_of(points, normals * scaled, amounts * scaled, norm)
    reached = (normals * moves.astype(np.float64)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(reached, amounts, rtol=1e-5)
    ends = points + moves
    assert ends.min() > -1e-6 and ends.max() < 1 + 1e-6
    still = moves_of(points, 0 * normals, amounts, norm)
    np.testing.assert_array_equal(still, np.zeros_like(points))


@pytest.mark.parametrize(
    ("norm", "target_classes"), [("linf", None), ("l2", None), ("l1", None), ("l2", 2)]
)
def test_finds_the_optimum_of_a_linear_model(norm, target_classes):
    shape = (4, 5, 1)
    logits_fn, weights = linear(shape, CLASSES, in_order=True)
    images = some_images(6, shape)
    labels = named(logits_fn, images)
    options = {"norm": norm, "steps": 30, "target_classes": target_classes}
    attack = jax.jit(functools.partial(fab_minimal, logits_fn, **options))
    found = attack(images, labels, jax.random.key(0))
    assert found.attacked.success.all()
    flat = np.asarray(images, np.float64).reshape(6, -1)
    logits = flat @ weights
    for i, label in enumerate(labels):
        ranked = np.argsort(-logits[i])
        targets = ranked[1:] if target_classes is None else ranked[1:][:target_classes]
        expected = []
        for target in targets:
            normal = weights[:, target] - weights[:, label]
            gap = logits[i, label] - logits[i, target]
            if (np.where(normal > 0, 1 - flat[i], -flat[i]) * normal).sum() > gap:
                expected.append(shortest(flat[i], normal, gap, norm))
        assert 0.999 < found.distances[i] / min(expected) < 1.02
    moved = np.asarray(found.attacked.images, np.float64) - images
    lengths = np.linalg.norm(moved.reshape(6, -1), ORDER[norm], axis=1)
    np.testing.assert_allclose(found.distances, lengths, rtol=1e-5)


@pytest.mark.parametrize(("norm", "target_classes"), [("linf", 2), ("l2", None)])
def test_perturbations_beyond_epsilon_return_the_clean_image(norm, target_classes):
    shape = (5, 4, 3)
    images = some_images(16, shape)
    labels = named(two_layers, images)
    labels[:2] = (labels[:2] + 1) % CLASSES  # wrong as they are
    options = {"norm": norm, "steps": 15, "target_classes": target_classes}
    attack = jax.jit(functools.partial(fab, two_layers, **options))
    minimal = jax.jit(functools.partial(fab_minimal, two_layers, **options))
    key = jax.random.key(0)
    found = minimal(images, labels, key)
    assert found.attacked.success.all()
    np.testing.assert_array_equal(found.distances[:2], [0, 0])
    epsilon = float(np.median(found.distances))
    attacked = attack(images, labels, key, epsilon=epsilon)
    within = np.asarray(found.distances) <= epsilon
    assert 5 < within.sum() < 12
    np.testing.assert_array_equal(attacked.success, within)
    result = np.asarray(attacked.images)
    moved = (result != images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(moved, within & (np.arange(16) > 1))
    assert result.min() >= 0 and result.max() <= 1
    moved = (result - images).reshape(16, -1)
    sizes = np.linalg.norm(moved, ORDER[norm], axis=1)
    assert (sizes <= np.float32(epsilon)).all()
    runs = 1 if target_classes is None else target_classes
    each = 15 * (CLASSES + 1 if target_classes is None else 2)
    np.testing.assert_array_equal(attacked.queries[:2], [2, 2])
    np.testing.assert_array_equal(
        np.asarray(attacked.queries)[~within], 2 + runs * each
    )
    np.testing.assert_array_equal(
        np.asarray(found.attacked.queries)[2:], 2 + runs * each
    )
    none = attack(images, labels, key, epsilon=0)
    np.testing.assert_array_equal(none.images, images)
    np.testing.assert_array_equal(none.success, np.arange(16) < 2)


@pytest.mark.slow
def test_an_image_found_within_epsilon_is_skipped(optimized):
    images = some_images(8, (5, 4, 3))
    labels = named(two_layers, images)
    attack = functools.partial(fab, two_layers, epsilon=0.05, steps=8)
    # The same program for fewer runs, for identical rounding.
    first, all_runs = (
        jax.jit(functools.partial(attack, **options))(images, labels, jax.random.key(0))
        for options in ({"target_classes": 1}, {"target_classes": 3, "restarts": 2})
    )
    done = np.asarray(first.success)
    assert 0 < done.sum() < 8
    np.testing.assert_array_equal(all_runs.images[done], first.images[done])
    np.testing.assert_array_equal(np.asarray(all_runs.queries)[done], 2 + 8 * 2)
    most = np.asarray(all_runs.queries)[~np.asarray(all_runs.success)]
    np.testing.assert_array_equal(most, 2 + 8 * 2 * 3 * 2)


def test_restarts_start_elsewhere_and_are_never_worse():
    # A boundary at 0.05 with a zero gradient at the image, and another at 0.4.
    def logits_fn(images, key):
        steep = 100 * jnp.maximum(images[:, 0, 0, 0] - 0.52, 0) - 3
        shallow = images[:, 0, 1, 0] - 0.9
        return jnp.stack([jnp.zeros_like(steep), jnp.maximum(steep, shallow)], axis=1)

    images, labels = np.full((16, 1, 2, 1), 0.5, np.float32), np.zeros(16, int)
    minimal = functools.partial(fab_minimal, logits_fn, images, labels, epsilon=0.2)
    key = jax.random.key(0)
    once = jax.jit(functools.partial(minimal, steps=10))(key)
    np.testing.assert_allclose(once.distances, 0.4, rtol=0.01)
    minimal = jax.jit(functools.partial(minimal, steps=10, restarts=2))
    twice, again, other = minimal(key), minimal(key), minimal(jax.random.key(1))
    assert (twice.distances <= once.distances).all()
    lower = np.asarray(twice.distances) < 0.3
    assert 0 < lower.sum() < 16  # each image has a start of its own
    found = np.asarray(twice.distances)[lower]
    assert (found > 0.0499).all() and (found < 0.1).all() and found.min() < 0.051
    np.testing.assert_array_equal(again.distances, twice.distances)
    assert not np.array_equal(other.distances, twice.distances)


def test_an_image_does_not_depend_on_its_batch():
    shape = (3, 5, 2)
    logits_fn, _ = linear(shape, CLASSES, in_order=True)
    curved = lambda images, key: jnp.tanh(logits_fn(images, key) / 4)
    images = some_images(5, shape)
    labels = named(logits_fn, images)
    attack = jax.jit(
        functools.partial(
            fab_minimal, curved, key=jax.random.key(5), norm="l2", steps=6, restarts=2
        )
    )
    batch = attack(images, labels)
    for i in range(5):
        alone = attack(images[i : i + 1], labels[i : i + 1], first_index=i)
        # The order of summation depends on the batch size.
        np.testing.assert_allclose(
            alone.attacked.images[0], batch.attacked.images[i], rtol=0, atol=1e-6
        )
    others = images.copy()
    others[1:] = 0.5
    first = attack(others, labels).attacked.images[0]
    np.testing.assert_array_equal(first, batch.attacked.images[0])


def test_counts_its_queries():
    logits_fn, seen = noting_keys(two_layers)
    images = some_images(1, (3, 3, 1))
    labels = named(two_layers, images)
    options = {"epsilon": 1e-6, "steps": 3, "target_classes": 2}
    attack = jax.jit(functools.partial(fab, logits_fn, **options))
    attacked = attack(images, labels, jax.random.key(0))
    jax.block_until_ready(attacked)
    jax.effects_barrier()
    assert len(seen) == attacked.queries[0] == 1 + 2 * 3 * 2 + 1
    assert len(set(seen)) == len(seen)


def test_averages_over_keys():
    # The threshold of brightness depends on the key, with mean 0.5.
    def logits_fn(images, key):
        light = images[:, 0, 0, 0] - 0.5 + 0.2 * jax.random.normal(key)
        return jnp.stack([-light, light], axis=1)

    images, labels = np.full((1, 1, 2, 1), 0.8, np.float32), np.array([1])
    attack = functools.partial(fab_minimal, logits_fn, images, labels, steps=20)
    options = {"eot_samples": 101, "eot_chunk": 8, "evaluations": 11}
    found = jax.jit(functools.partial(attack, target_classes=1, **options))(
        jax.random.key(0)
    )
    np.testing.assert_allclose(found.distances, 0.3, atol=0.1)
    assert found.attacked.queries[0] == 101 * (1 + 2 * 20) + 11
    lucky = jax.jit(attack)(jax.random.key(0))
    assert lucky.distances[0] < found.distances[0] - 0.1


def test_iterates_with_nan_logits_are_not_returned():
    def logits_fn(images, key):
        light = images[:, 0, 0, 0] - 0.5
        light = jnp.where(images[:, 0, 0, 0] < 0.495, jnp.nan, light)
        return jnp.stack([-light, light], axis=1)

    images = np.full((2, 1, 2, 1), 0.7, np.float32)
    images[1] = 0.53
    attack = jax.jit(functools.partial(fab_minimal, logits_fn, steps=9))
    found = attack(images, np.array([1, 1]), jax.random.key(0))
    result = np.asarray(found.attacked.images)
    assert np.isfinite(result).all()
    assert found.attacked.not_finite[0] > 0
    assert found.attacked.success[1] and 0.03 < found.distances[1] < 0.035
    assert found.attacked.success[0] and 0.2 < found.distances[0] < 0.205


def test_nothing_found():
    constant = lambda images, key: jnp.stack([images.sum(axis=(1, 2, 3)) * 0] * 3, 1)
    images, labels = some_images(2, (2, 3, 1)), np.array([0, 0])
    attack = jax.jit(functools.partial(fab_minimal, constant, steps=5))
    found = attack(images, labels, jax.random.key(0))
    np.testing.assert_array_equal(found.distances, [np.inf, np.inf])
    np.testing.assert_array_equal(found.attacked.images, images)
    assert not found.attacked.success.any()
    silent = lambda images, key: jnp.full((len(images), 3), jnp.nan)
    attack = jax.jit(functools.partial(fab, silent, steps=5))
    attacked = attack(images, labels, jax.random.key(0))
    np.testing.assert_array_equal(attacked.images, images)
    np.testing.assert_array_equal(attacked.not_finite, [12, 12])


def test_keeps_float64(x64):
    images = np.random.default_rng(0).random((2, 4, 4, 3))
    labels = named(two_layers, images)
    attack = jax.jit(functools.partial(fab, two_layers, steps=9, epsilon=0.2))
    attacked = attack(images, labels, jax.random.key(0))
    assert attacked.images.dtype == np.float64
    assert attacked.success.all()
    assert np.abs(np.asarray(attacked.images) - images).max() <= 0.2
