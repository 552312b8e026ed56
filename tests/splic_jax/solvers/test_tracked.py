"""The fast solver against the exact one, and against NumPy and SciPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from splic_jax import SPLICConfig, purify
from splic_jax import complete as complete_one
from splic_jax.layout import small
from splic_jax.layout.groups import GROUP
from splic_jax.solvers import tracked

EXACT = SPLICConfig(solver="exact")


def pictures(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """Noise with the falling spectrum of photographs, in [0, 1]."""
    noise = np.random.default_rng(seed).normal(size=(count, side, side))
    layers = [
        sigma * scipy.ndimage.gaussian_filter(noise, (0, sigma, sigma), mode="wrap")
        for sigma in (0.7, 1.5, 3, 6, 12)
    ]
    images = sum(layers)
    low, high = images.min(axis=(1, 2)), images.max(axis=(1, 2))
    images = (images - low[:, None, None]) / (high - low)[:, None, None]
    return images.astype(np.float32)


def masks(count: int, side: int = 32, keep: float = 0.5) -> np.ndarray:
    return np.random.default_rng(1).random((count, side, side)) < keep


@functools.partial(jax.jit, static_argnames="config")
def complete(images, masks, config):
    return jax.vmap(functools.partial(complete_one, config=config))(images, masks)


@pytest.mark.parametrize(
    ("rank", "keep"),
    [
        (8, 0.5),
        (8, 0.3),
        (8, 0.8),
        *(pytest.param(rank, 0.5, marks=pytest.mark.slow) for rank in (4, 16, None)),
    ],
)
def test_completes_like_the_exact_solver(rank, keep):
    images, mask = pictures(8), masks(8, keep=keep)
    config = SPLICConfig(rank=rank, solver="fast")
    fast = complete(images, mask, config)
    exact = complete(images, mask, dataclasses.replace(config, solver="exact"))
    difference = np.abs(fast.matrix - exact.matrix)
    assert difference.mean() < 1e-3
    assert (difference <= 0.02).mean() >= 0.999
    np.testing.assert_array_equal(fast.matrix[mask], images[mask])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(48, 20), (20, 48)])
def test_other_shapes(shape):
    images = pictures(4, 48)[:, : shape[0], : shape[1]]
    mask = masks(4, 48)[:, : shape[0], : shape[1]]
    fast, exact = (
        complete(images, mask, config).matrix for config in (SPLICConfig(), EXACT)
    )
    assert np.abs(fast - exact).mean() < 1e-3


def test_flat_black_tied_and_fully_anchored_images():
    flat = np.full((32, 32), 0.7, np.float32)
    black = np.zeros((32, 32), np.float32)
    checkers = np.indices((32, 32)).sum(axis=0) % 2  # two equal singular values
    images = np.stack([flat, black, checkers.astype(np.float32), pictures(1)[0]])
    mask = masks(4)
    mask[3] = True
    done = complete(images, mask, SPLICConfig())
    exact = complete(images, mask, EXACT)
    np.testing.assert_allclose(done.matrix[0], 0.7, atol=0.02)
    np.testing.assert_array_equal(done.matrix[1], 0)
    np.testing.assert_allclose(done.matrix[2], exact.matrix[2], atol=0.02)
    np.testing.assert_array_equal(done.matrix[3], images[3])


def few_pixels(count: int) -> np.ndarray:
    """Ties, and columns of rounding errors: permutations, the identity, lone pixels."""
    rng = np.random.default_rng(0)
    eye = np.eye(32, dtype=np.float32)
    images = np.stack([eye[rng.permutation(32)] for _ in range(count)])
    images[::4] = eye
    images[1::4] = rng.random((len(images[1::4]), 32, 32)) < 0.02
    images[2::4] = 0
    places = np.arange(2, count, 4), *rng.integers(32, size=(2, len(images[2::4])))
    images[places] = 1
    return images


@pytest.mark.parametrize(
    "rank", [8, *(pytest.param(rank, marks=pytest.mark.slow) for rank in (4, 16))]
)
def test_ties_and_rounding_errors_never_grow(rank):
    images, mask = few_pixels(32), masks(32)
    mask |= images > 0.5
    mask[::4] = masks(32)[::4]
    done = complete(images, mask, SPLICConfig(rank=rank))
    exact = complete(images, mask, SPLICConfig(rank=rank, solver="exact"))
    largest = np.max(np.abs(done.matrix), axis=(1, 2))
    np.testing.assert_array_less(largest, 4)
    # Which of the tied ones is kept is open, how well the picture is met is not.
    error = np.sqrt(np.mean((done.matrix - images) ** 2))
    expected = np.sqrt(np.mean((exact.matrix - images) ** 2))
    np.testing.assert_allclose(error, expected, rtol=0.1)


def test_nan_at_an_anchor_stays_in_its_own_matrix():
    images, mask = pictures(3), masks(3)
    poisoned = images.copy()
    poisoned[1, 4, 4], mask[1, 4, 4] = np.nan, True
    good = complete(images, mask, SPLICConfig()).matrix
    bad = complete(poisoned, mask, SPLICConfig()).matrix
    np.testing.assert_array_equal(bad[::2], good[::2])
    assert np.isnan(bad[1]).any()


def test_matrices_do_not_depend_on_their_number(optimized):
    images, mask = pictures(GROUP + 3), masks(GROUP + 3)
    config = SPLICConfig(max_steps=28)
    many = complete(images, mask, config).matrix
    few = complete(images[-2:], mask[-2:], config).matrix
    np.testing.assert_array_equal(many[-2:], few)


@pytest.mark.parametrize(
    ("rounds", "settings"),
    [
        (3, {}),
        pytest.param(1, {}, marks=pytest.mark.slow),
        pytest.param(6, {}, marks=pytest.mark.slow),
        pytest.param(3, {"tv_weight": 0.0}, marks=pytest.mark.slow),
        pytest.param(
            3,
            {"step_scaling": "printed", "pixel_scale": 255.0},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_gradient_is_that_of_the_exact_solver(rounds, settings):
    images, mask = pictures(4), masks(4)
    weight = np.random.default_rng(2).normal(size=images.shape).astype(np.float32)

    def gradient(config):
        def value(image, mask, weight):
            return jnp.vdot(weight, complete_one(image, mask, config).matrix)

        return jax.jit(jax.vmap(jax.grad(value)))(images, mask, weight)

    settings = {"max_steps": 7 * rounds, "tolerance": 0.0} | settings
    fast, exact = (
        gradient(SPLICConfig(solver=solver, **settings)) for solver in ("fast", "exact")
    )
    error = np.linalg.norm(fast - exact, axis=(1, 2))
    assert (error < 0.02 * np.linalg.norm(exact, axis=(1, 2))).all()


@pytest.mark.slow
def test_gradient_through_purify_runs_in_groups():
    images = np.stack([pictures(3, seed=seed) for seed in range(2)], axis=0)
    images = images.transpose(0, 2, 3, 1)
    key = jax.random.key(0)

    def gradient(config):
        return jax.jit(jax.grad(lambda x: jnp.sum(purify(x, key, config) ** 2)))(images)

    short = dataclasses.replace(EXACT, max_steps=14)
    fast, exact = gradient(SPLICConfig(max_steps=14)), gradient(short)
    assert np.linalg.norm(fast - exact) < 0.02 * np.linalg.norm(exact)


def test_track_follows_a_turning_matrix():
    rng = np.random.default_rng(3)
    x = pictures(1)[0] * 2 - 1
    nearby = x + 0.01 * rng.normal(size=x.shape).astype(np.float32)
    vectors, largest = tracked.decompose(jnp.asarray(x), 16)
    np.testing.assert_allclose(largest, np.linalg.norm(x, 2), rtol=1e-5)
    leading = tracked.track(jnp.asarray(nearby), vectors, jnp.float32(1e-3), 8)
    u, s, vt = np.linalg.svd(nearby.astype(np.float64))
    squares = np.sort(np.sum(np.asarray(leading.xv) ** 2, axis=0))[::-1]
    np.testing.assert_allclose(np.sqrt(squares[:8]), s[:8], rtol=1e-3)
    kept = np.argsort(-np.sum(np.asarray(leading.xv) ** 2, axis=0))[:8]
    cut = np.asarray(leading.xv)[:, kept] @ np.asarray(leading.vectors)[:, kept].T
    np.testing.assert_allclose(cut, (u[:, :8] * s[:8]) @ vt[:8], atol=5e-3)


@pytest.mark.parametrize("shape", [(5, 7, 4), (1, 1, 1), (70, 3, 80)])
def test_products_are_those_of_numpy(shape):
    m, k, n = shape
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(3, m, k)), rng.normal(size=(3, k, n))
    expected = a @ b
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    for got in (
        jax.vmap(small.product)(a, b),
        jax.vmap(small.product_tn)(jnp.swapaxes(a, 1, 2), b),
        jax.vmap(small.product_nt)(a, jnp.swapaxes(b, 1, 2)),
        jnp.stack([small.product(*pair) for pair in zip(a, b, strict=True)]),
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_largest_ones_are_always_as_many_as_asked_for():
    values = jnp.array([[1.0, 3.0, 2.0, 3.0], [2.0, 2.0, 2.0, 0.0]])
    ones = jax.vmap(lambda v: small.largest_ones(v, 2))(values)
    np.testing.assert_array_equal(ones, [[0, 1, 0, 1], [1, 1, 0, 0]])


@pytest.mark.parametrize("form", ["product", "product_tn", "product_nt"])
@pytest.mark.parametrize("left", [True, False])
def test_gradients_of_products_are_those_of_matmul(form, left):
    rng = np.random.default_rng(0)
    fixed, moving = jnp.asarray(rng.normal(size=(2, 3, 4, 4)), jnp.float32)
    ours = getattr(small, form)
    theirs = {
        "product": lambda a, b: a @ b,
        "product_tn": lambda a, b: a.T @ b,
        "product_nt": lambda a, b: a @ b.T,
    }[form]

    def gradient(product, fixed, moving):
        both = (lambda x: (x, fixed)) if left else (lambda x: (fixed, x))
        return jax.grad(lambda x: (product(*both(x)) ** 2).sum())(moving)

    expected = [gradient(theirs, f, x) for f, x in zip(fixed, moving, strict=True)]
    together = jax.jit(jax.vmap(functools.partial(gradient, ours)))(fixed, moving)
    np.testing.assert_allclose(together, np.stack(expected), rtol=1e-4, atol=1e-5)
    shared = jax.vmap(functools.partial(gradient, ours), in_axes=(None, 0))
    np.testing.assert_allclose(
        jax.jit(shared)(fixed[0], moving)[1],
        gradient(theirs, fixed[0], moving[1]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_anywhere_is_of_all_matrices():
    conditions = jnp.array([False, True, False])
    assert jax.vmap(small.anywhere, out_axes=None)(conditions)
    assert not jax.vmap(small.anywhere, out_axes=None)(conditions[:1])
