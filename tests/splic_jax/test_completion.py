import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from benchmarks import _reference
from splic_jax import SPLICConfig, complete, complete_alternating

SHORT = SPLICConfig(max_steps=21, tolerance=0.0)


def smooth_image(shape, seed=0):
    """Low frequencies plus noise, in [0, 1]: much like a channel of a photograph."""
    rng = np.random.default_rng(seed)
    i, j = np.meshgrid(*(np.linspace(0, 1, side) for side in shape), indexing="ij")
    image = sum(
        rng.normal() * np.cos(np.pi * (a * i + b * j) + rng.uniform(0, 6))
        for a in range(4)
        for b in range(4)
    )
    image = image + 0.3 * rng.normal(size=shape)
    return (image - image.min()) / (np.ptp(image) or 1.0)


def random_mask(shape, seed=0, keep=0.5):
    mask = np.random.default_rng(seed + 100).uniform(size=shape) < keep
    mask.flat[0] = True
    return mask


SHAPES = [(12, 12), (8, 20), (20, 8), (1, 9), (9, 1), (5, 6)]
CONFIGS = {
    "default": SPLICConfig(tolerance=0.0, max_steps=28),
    "stops early": SPLICConfig(tolerance=8e-3),
    "no cut": SPLICConfig(tolerance=0.0, max_steps=28, rank_cut=False),
    "rank 3": SPLICConfig(tolerance=0.0, max_steps=28, rank=3),
    "no TV": SPLICConfig(tolerance=0.0, max_steps=28, tv_weight=0.0),
    "printed": dataclasses.replace(SPLICConfig.printed(), tolerance=0.0, max_steps=28),
    "printed TV": SPLICConfig(tolerance=0.0, max_steps=28, tv_form="printed"),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "shape", [*SHAPES[:2], pytest.param(SHAPES[2], marks=pytest.mark.slow)]
)
def test_equals_the_numpy_reference_in_float64(x64, shape, name):
    config = CONFIGS[name]
    if config.rank and config.rank > min(shape):
        pytest.fail("the shapes of this test must admit the rank")
    image, mask = smooth_image(shape), random_mask(shape)
    expected, steps, changes = _reference.complete(image, mask, config)
    got = complete(jnp.asarray(image), jnp.asarray(mask), config, trace=True)
    assert got.steps == steps
    assert got.converged == (changes[-1] <= config.tolerance)
    np.testing.assert_allclose(got.matrix, expected, atol=1e-9)
    np.testing.assert_allclose(got.trace[:steps], changes, rtol=1e-6, atol=1e-12)
    assert np.isnan(got.trace[steps:]).all()
    np.testing.assert_allclose(got.relative_change, changes[-1], rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES[3:])
def test_thin_matrices_equal_the_reference(x64, shape):
    image, mask = smooth_image(shape), random_mask(shape)
    expected, _, _ = _reference.complete(image, mask, SHORT)
    got = complete(jnp.asarray(image), jnp.asarray(mask), SHORT).matrix
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_float32_follows_float64():
    image, mask = smooth_image((24, 24)), random_mask((24, 24))
    config = dataclasses.replace(SHORT, rank_cut=False)  # a smooth function of X
    expected, _, _ = _reference.complete(image, mask, config)
    got = complete(jnp.asarray(image, jnp.float32), jnp.asarray(mask), config).matrix
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_anchors_come_back_to_the_bit():
    image = smooth_image((16, 16)).astype(np.float32)
    mask = random_mask((16, 16))
    for config in (SHORT, dataclasses.replace(SPLICConfig.printed(), max_steps=21)):
        got = np.asarray(complete(image, mask, config).matrix)
        assert (got[mask] == image[mask]).all()
        assert (got[~mask] != image[~mask]).any()


def test_under_vmap_each_stops_where_it_would_alone():
    config = SPLICConfig(tolerance=3e-3)
    images = np.stack([smooth_image((12, 12), seed) for seed in range(6)])
    images[3] = 0  # stops after the first round
    images[4] = 0.5
    images = images.astype(np.float32)
    masks = np.stack([random_mask((12, 12), seed) for seed in range(6)])
    run = lambda image, mask: complete(image, mask, config, trace=True)
    together = jax.jit(jax.vmap(run))(images, masks)
    alone = [jax.jit(run)(*pair) for pair in zip(images, masks, strict=True)]
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    assert len(set(alone.steps.tolist())) > 2, "the test wants different stops"
    jax.tree.map(np.testing.assert_array_equal, together, alone)


def test_jit_equals_eager():
    image, mask = smooth_image((8, 8)).astype(np.float32), random_mask((8, 8))
    eager = complete(image, mask, SHORT)
    jitted = jax.jit(functools.partial(complete, config=SHORT))(image, mask)
    np.testing.assert_allclose(eager.matrix, jitted.matrix, atol=1e-5)


@pytest.mark.parametrize("rank_cut", [True, False])
@pytest.mark.parametrize("alternate", [True, False])
@pytest.mark.parametrize("shape", [(8, 8), (6, 10)])
def test_gradient_through_the_whole_completion(x64, shape, alternate, rank_cut):
    config = dataclasses.replace(SHORT, rank=2, alternate=alternate, rank_cut=rank_cut)
    image, mask = smooth_image(shape, 3), jnp.asarray(random_mask(shape, 3))
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape)
    total = jax.jit(lambda x: jnp.sum(weight * complete_alternating(x, mask, config)))
    gradient = np.asarray(jax.grad(total)(jnp.asarray(image)))
    h = 1e-6
    for _ in range(4):
        direction = rng.normal(size=shape)
        numeric = (total(image + h * direction) - total(image - h * direction)) / 2 / h
        np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=2e-5)
    assert (gradient[~mask] == 0).all()  # the targets are never looked at


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_gradient_is_finite_on_flat_matrices(value):
    mask = jnp.asarray(random_mask((8, 8)))
    total = lambda x: complete(x, mask, SHORT).matrix.sum()
    assert np.isfinite(jax.grad(total)(jnp.full((8, 8), value))).all()


@pytest.mark.parametrize("alternate", [True, False])
def test_targets_are_never_looked_at(alternate):
    """What the input holds at target pixels changes no output bit."""
    config = dataclasses.replace(SHORT, alternate=alternate)
    image = smooth_image((16, 16)).astype(np.float32)
    mask = random_mask((16, 16))
    other = np.where(mask, image, np.random.default_rng(1).uniform(-9, 9, mask.shape))
    run = jax.jit(functools.partial(complete_alternating, config=config))
    first, second = run(image, mask), run(other.astype(np.float32), mask)
    assert (np.asarray(first) == np.asarray(second)).all()
    worse = np.where(mask, image, np.nan).astype(np.float32)
    assert (np.asarray(first) == np.asarray(run(worse, mask))).all()


def test_alternating_is_two_completions():
    image, mask = smooth_image((12, 12)).astype(np.float32), random_mask((12, 12))
    first = complete(image, mask, SHORT).matrix
    second = complete(first, ~mask, SHORT).matrix
    got = np.asarray(complete_alternating(image, mask, SHORT))
    np.testing.assert_allclose(got, second, atol=1e-6)
    assert (got[~mask] == np.asarray(first)[~mask]).all()
    assert (got[mask] != image[mask]).any()


def test_black_comes_back_black():
    mask = random_mask((12, 12))
    for config in (SPLICConfig(), SPLICConfig.printed()):
        completion = complete(jnp.zeros((12, 12)), mask, config)
        assert (np.asarray(completion.matrix) == 0).all()
        assert completion.converged
        assert completion.relative_change == 0


@pytest.mark.parametrize("value", [0.1, 0.5, 1.0])
def test_constant_comes_back(value):
    image, mask = jnp.full((32, 32), value), random_mask((32, 32))
    got = complete_alternating(image, mask, SPLICConfig())
    np.testing.assert_allclose(got, value, atol=0.02)
    tight = SPLICConfig(tolerance=2e-6, max_steps=2000)
    got = complete_alternating(image, mask, tight)
    np.testing.assert_allclose(got, value, atol=1e-4)


def test_all_anchors_is_the_identity():
    image = smooth_image((9, 7)).astype(np.float32)
    mask = np.ones((9, 7), bool)
    for run in (lambda *a: complete(*a).matrix, complete_alternating):
        run = functools.partial(lambda run, x, m: run(x, m, SHORT), run)
        assert (np.asarray(run(image, mask)) == image).all()
        assert (np.asarray(jax.jit(run)(image, mask)) == image).all()


def test_rank_one_matrix_is_recovered(x64):
    """A positive rank-1 matrix is determined by half of its entries."""
    rng = np.random.default_rng(0)
    image = np.outer(rng.uniform(0.5, 1, 24), rng.uniform(0.5, 1, 24))
    config = SPLICConfig(rank=1, tv_weight=0.0, tolerance=1e-9, max_steps=2000)
    got = complete(jnp.asarray(image), jnp.asarray(random_mask((24, 24))), config)
    assert got.converged
    np.testing.assert_allclose(got.matrix, image, atol=1e-5)


def test_full_rank_equals_no_cut():
    image, mask = smooth_image((8, 10)).astype(np.float32), random_mask((8, 10))
    full = complete(image, mask, dataclasses.replace(SHORT, rank=8)).matrix
    uncut = complete(image, mask, dataclasses.replace(SHORT, rank_cut=False)).matrix
    np.testing.assert_array_equal(full, uncut)


def test_blocks_keep_total_variation_within_each_image():
    left, right = smooth_image((8, 8), 1), smooth_image((8, 8), 2)
    config = SPLICConfig(rank_cut=False, tolerance=0.0, max_steps=7, tv_weight=0.5)
    config_tv_only = dataclasses.replace(config, delta_decay=1e-9, max_steps=14)
    wide = np.concatenate([left, right], axis=1).astype(np.float32)
    mask = random_mask((8, 16))
    one = complete(wide, mask, config_tv_only, blocks=1).matrix
    two = complete(wide, mask, config_tv_only, blocks=2).matrix
    assert np.abs(one - two).max() > 1e-3
    # A border apart, the two have the same pixels: the difference starts at the seam.
    single_step = dataclasses.replace(config, inner_steps=1, max_steps=1)
    one = complete(wide, mask, single_step, blocks=1).matrix
    two = complete(wide, mask, single_step, blocks=2).matrix
    changed = np.abs(one - two).max(axis=0) > 1e-6
    assert set(np.flatnonzero(changed)) <= {7, 8}
    assert changed.any()


def test_multi_scale_total_variation_smooths_more():
    image, mask = smooth_image((16, 16)).astype(np.float32), random_mask((16, 16))
    rough = lambda x: float(np.abs(np.diff(np.asarray(x), axis=0)).mean())
    one, three = (
        complete(
            image, mask, dataclasses.replace(SHORT, tv_weight=0.02, tv_scales=s)
        ).matrix
        for s in (1, 3)
    )
    assert rough(three) < rough(one)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (np.ones((4, 4)), np.zeros((4, 4), bool), "no anchors"),
        (np.full((4, 4), np.nan), np.eye(4, dtype=bool), "not finite"),
        (np.full((4, 4), np.inf), np.eye(4, dtype=bool), "not finite"),
    ],
)
def test_refuses_what_cannot_be_completed(image, mask, message):
    image = image.astype(np.float32)
    for run in (complete, complete_alternating):
        with pytest.raises(ValueError, match=message):
            run(image, mask)
        error, _ = checkify.checkify(jax.jit(run))(image, mask)
        assert message in error.get()


def test_refuses_a_rank_above_the_smaller_side():
    with pytest.raises(ValueError, match="rank=5 exceeds"):
        complete(jnp.ones((4, 6)), jnp.ones((4, 6), bool), SPLICConfig(rank=5))


@pytest.mark.parametrize("scaling", ["relative", "printed"])
def test_gradient_is_finite_after_any_number_of_rounds(scaling):
    # Delta falls to 1e-21 of what it was, and its square to less than a float32 holds.
    config = SPLICConfig(step_scaling=scaling, max_steps=60 * 7, tolerance=0.0)
    mask = jnp.asarray(random_mask((6, 6)))
    total = lambda x: jnp.sum(complete(x, mask, config).matrix ** 2)
    gradient = jax.jit(jax.grad(total))
    for value in (0.0, 0.5):
        assert np.isfinite(gradient(jnp.full((6, 6), value))).all()
    assert np.isfinite(gradient(jnp.asarray(smooth_image((6, 6)), jnp.float32))).all()


@pytest.mark.parametrize("run", [complete, complete_alternating])
def test_another_matrix_compiles_nothing(run):
    programs = []
    listen = lambda event, _, **__: programs.append(event)
    mask = random_mask((6, 5))
    run(smooth_image((6, 5)), mask, SHORT)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run(smooth_image((6, 5)) / 2, ~mask, SHORT)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in programs if "compile" in event]


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((7, 5), {"tolerance": 0.02, "inner_steps": 2, "max_steps": 40}),
        pytest.param((17, 16), {"tolerance": 0.02}, marks=pytest.mark.slow),
        pytest.param((66, 17), {"tolerance": 0.05}, marks=pytest.mark.slow),
    ],
)
def test_an_early_stop_has_the_derivative_of_the_rounds_it_took(shape, settings):
    config = SPLICConfig(**settings)
    images = np.stack([smooth_image(shape, 1), smooth_image(shape, 2)])
    images = images.astype(np.float32) * np.array([1, 0.5], np.float32)[:, None, None]
    masks = np.stack([random_mask(shape)] * 2)
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    steps = jax.vmap(lambda x, m: complete(x, m, config).steps)(images, masks)
    assert (0 < steps).all() and (steps < config.max_steps).all()  # they stop early

    def stopped(images):
        return jax.vmap(lambda x, m: complete(x, m, config).matrix)(images, masks)

    got = jax.grad(lambda x: jnp.sum(weights * stopped(x)))(images)
    for index, image in enumerate(images):
        all_of_them = dataclasses.replace(
            config, max_steps=int(steps[index]), tolerance=0.0
        )
        fixed = lambda x, m=masks[index], c=all_of_them: jnp.sum(
            weights * complete(x, m, c).matrix
        )
        expected = jax.grad(fixed)(image)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got[index], expected, rtol=0, atol=2e-5 * scale)
