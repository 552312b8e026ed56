import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attacks.boundary import _adapt, _propose, _Walk, boundary

SHAPE = (3, 5, 2)


def half_space():
    """One-hot predictions by a hyperplane through grey, and its unit normal."""
    normal = np.random.default_rng(0).normal(size=np.prod(SHAPE))
    normal /= np.linalg.norm(normal)

    def logits_fn(images, key):
        # Rounded, so that the order of summation does not matter.
        side = images.reshape(len(images), -1) - 0.5
        side = jnp.matmul(side, normal.astype(np.float32), precision="highest")
        side = jnp.round(side * 2**14) > 0
        return jnp.stack([~side, side], axis=1).astype(jnp.float32)

    return logits_fn, normal


def some_images(n):
    """Around grey, so that the nearest point of the hyperplane is in the box."""
    noise = np.random.default_rng(1).random((n, *SHAPE), np.float32)
    return 0.5 + (noise - 0.5) * np.float32(0.4)


def signed_distance(images):
    _, normal = half_space()
    return (np.asarray(images, np.float64).reshape(len(images), -1) - 0.5) @ normal


@functools.cache
def walk():
    logits_fn, _ = half_space()
    return jax.jit(
        functools.partial(boundary, logits_fn, steps=1500, spherical_step=0.1)
    )


def test_approaches_the_distance_to_a_hyperplane():
    images = some_images(4)
    labels = (signed_distance(images) > 0).astype(int)
    labels[3] = 1 - labels[3]  # misclassified as it is
    epsilons = (8 / 255, 0.2, 0.0)
    for epsilon in epsilons:
        found = walk()(
            images, labels, jax.random.key(0), epsilon=epsilon, first_index=0
        )
        least = np.abs(signed_distance(images))
        least[3] = 0
        assert np.all(found.l2 >= least - 2**-14)
        np.testing.assert_allclose(found.l2, least, rtol=0.03, atol=1e-3)
        moved = np.asarray(found.unconstrained.images, np.float64) - images
        flat = moved.reshape(4, -1)
        np.testing.assert_allclose(found.l2, np.linalg.norm(flat, axis=1), rtol=1e-5)
        np.testing.assert_allclose(found.linf, np.abs(flat).max(axis=1), rtol=1e-5)
        assert found.unconstrained.success.all()
        assert found.unconstrained.images.min() >= 0
        assert found.unconstrained.images.max() <= 1
        np.testing.assert_array_equal(found.unconstrained.images[3], images[3])
        assert found.unconstrained.queries[3] == 2
        cut = np.asarray(found.projected.images)
        assert np.abs(cut - images).max() <= np.float32(epsilon)
        nearest = np.clip(images + moved, images - epsilon, images + epsilon)
        np.testing.assert_allclose(cut, nearest, atol=1e-6)
        over = np.round(signed_distance(cut) * 2**14) > 0
        np.testing.assert_array_equal(found.projected.success, over != labels)


def test_an_image_does_not_depend_on_its_batch():
    images = some_images(4)
    labels = (signed_distance(images) > 0).astype(int)
    attack = functools.partial(walk(), key=jax.random.key(7), epsilon=0.1)
    batch = attack(images, labels, first_index=0)
    for i in range(2):
        alone = attack(images[i : i + 1], labels[i : i + 1], first_index=i)
        # The batch size may change the last digit of a norm, and so the walk.
        np.testing.assert_allclose(alone.l2[0], batch.l2[i], rtol=1e-3)
        assert alone.unconstrained.queries[0] == batch.unconstrained.queries[i]
    others = images.copy()
    others[1:] = 0.5
    mates = attack(others, labels, first_index=0)
    np.testing.assert_array_equal(
        mates.unconstrained.images[0], batch.unconstrained.images[0]
    )
    moved = attack(images, labels, first_index=1)
    assert moved.l2[0] != batch.l2[0]


def test_counts_its_queries():
    asked = []
    logits_fn, _ = half_space()

    def counted(images, key):
        mark = images[0, 0, 0, 0] + jax.random.uniform(key)
        jax.debug.callback(lambda _: asked.append(1), mark)
        return logits_fn(images, key)

    images = some_images(1)
    labels = (signed_distance(images) > 0).astype(int)
    attack = functools.partial(
        boundary, counted, steps=40, blends=10, eot_samples=3, evaluations=2
    )
    found = jax.block_until_ready(jax.jit(attack)(images, labels, jax.random.key(0)))
    jax.effects_barrier()
    # Both readings have a final evaluation, and each counts its own.
    assert len(asked) == found.unconstrained.queries[0] + 2
    assert found.projected.queries[0] == found.unconstrained.queries[0]
    start = (found.unconstrained.queries[0] - 2) // 3 - 40 - 4
    assert 1 + 1 + 1 <= start <= 1 + 1000 + 9


def test_starts_targets_and_nan_logits():
    def logits_fn(images, key):
        light = images.mean(axis=(1, 2, 3))
        # Class 2 needs more light than random images have; logits near it are NaN.
        logits = jnp.stack([0.6 - light, light - 0.6, 10 * (light - 0.85)], axis=1)
        hole = (light > 0.7) & (light < 0.8)
        return jnp.where(hole[:, None], jnp.nan, logits)

    images = np.full((3, *SHAPE), 0.3, np.float32)
    images[2] = 0.5
    starts = np.ones_like(images)
    starts[1] = 0.2  # of no use
    attack = functools.partial(boundary, logits_fn, steps=300, draws=20)
    found = jax.jit(attack)(
        images,
        np.array([0, 0, 0]),
        jax.random.key(0),
        starts=starts,
        targets=np.array([2, 2, 2]),
        spherical_step=0.1,
        source_step=0.1,
    )
    np.testing.assert_array_equal(found.unconstrained.success, [True, False, True])
    assert found.l2[1] == np.inf and found.linf[1] == np.inf
    np.testing.assert_array_equal(found.unconstrained.images[1], images[1])
    assert found.unconstrained.queries[1] == 1 + 21 + 1
    light = np.asarray(found.unconstrained.images).mean(axis=(1, 2, 3))
    # z_2 > z_1 from 7.9 / 9 on.
    assert np.all(light[[0, 2]] > 7.9 / 9 - 1e-6) and np.all(light[[0, 2]] < 0.9)
    assert (
        found.unconstrained.not_finite[0] > 0 and found.unconstrained.not_finite[1] == 0
    )
    assert np.isfinite(found.unconstrained.images).all()


def test_a_proposal_agrees_with_the_formula():
    rng = np.random.default_rng(0)
    clean = 0.5 + 0.02 * rng.normal(size=SHAPE)
    current = clean + 0.02 * rng.normal(size=SHAPE)
    distance = np.linalg.norm(current - clean)
    near, sphere = _propose(
        jax.random.key(1),
        *(jnp.asarray(x, jnp.float32) for x in (clean, current, distance, 0.3, 0.07)),
    )
    near, sphere = np.asarray(near, np.float64), np.asarray(sphere, np.float64)
    # On the sphere, at the angle whose tangent is 0.3, and 7 % nearer from there.
    assert np.linalg.norm(sphere - clean) == pytest.approx(distance, rel=1e-4)
    cosine = np.sum((sphere - clean) * (current - clean)) / distance**2
    assert cosine == pytest.approx(1 / np.sqrt(1 + 0.3**2), rel=1e-4)
    np.testing.assert_allclose(near - clean, 0.93 * (sphere - clean), atol=1e-6)


def test_step_sizes_adapt_to_the_success_rates():
    # The paper's rule as in Foolbox, with queues, per image.
    rng = np.random.default_rng(0)
    n, rounds = 5, 400
    chance = np.array([0.05, 0.3, 0.55, 0.9, 0.15])
    sphere_wrong = rng.random((rounds, n)) < chance
    step_wrong = rng.random((rounds, n)) < chance[::-1] / 2
    walk = _Walk(
        jnp.zeros((n, 1, 1, 1)),
        jnp.ones(n),
        jnp.full(n, 0.01),
        jnp.full(n, 0.02),
        jnp.full((n, 100), jnp.nan),
        jnp.full((n, 30), jnp.nan),
        jnp.zeros(n, bool),
        jnp.zeros(n, jnp.int32),
        jnp.zeros(n, jnp.int32),
    )

    def one(walk, given):
        walk = _adapt(walk, given[0], given[1], given[2], 1.5)
        return walk, (walk.sphere_size, walk.source_size)

    given = (jnp.asarray(sphere_wrong), jnp.asarray(step_wrong), jnp.arange(rounds))
    _, (found_sphere, found_source) = jax.lax.scan(one, walk, given)
    for i in range(n):
        sphere, source = 0.01, 0.02
        on_sphere, on_step = collections.deque(), collections.deque()
        for t in range(rounds):
            on_sphere.append(sphere_wrong[t, i])
            on_step.append(step_wrong[t, i])
            if len(on_sphere) > 100:
                on_sphere.popleft()
            if len(on_step) > 30:
                on_step.popleft()
            if len(on_sphere) == 100 and not 20 <= sum(on_sphere) <= 50:
                factor = 1.5 if sum(on_sphere) > 50 else 1 / 1.5
                sphere, source = sphere * factor, source * factor
                on_sphere.clear()
            if len(on_step) == 30 and not 3 <= sum(on_step) <= 7.5:
                source *= 1.5 if sum(on_step) > 7.5 else 1 / 1.5
                on_step.clear()
            assert found_sphere[t, i] == pytest.approx(sphere, rel=1e-4)
            assert found_source[t, i] == pytest.approx(source, rel=1e-4)


def test_refuses_starts_out_of_range():
    images, starts = some_images(1), np.full((1, *SHAPE), 1.5)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"images\[0, 0, 0, 0\] is 1.5, not in"):
        boundary(half_space()[0], images, np.array([0]), key, starts=starts)
