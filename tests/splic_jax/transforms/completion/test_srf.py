"""SRF against the published loop in NumPy, float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax.transforms.completion.srf import SRFConfig, srf, srf_matrix


def reference(matrix, mask, config):
    """Gradient projection on the smoothed rank at falling delta, with an SVD a step."""
    x = np.where(mask, matrix, 0.0)
    delta = config.start * np.linalg.svd(x, compute_uv=False)[0]
    rounds = 0
    while rounds < config.max_rounds:
        before = x
        for _ in range(config.inner_steps):
            u, s, vt = np.linalg.svd(x, full_matrices=False)
            gradient = u @ np.diag(s / delta**2 * np.exp(-(s**2) / 2 / delta**2)) @ vt
            x = np.where(mask, matrix, x - config.step_size * delta**2 * gradient)
        delta *= config.delta_decay
        rounds += 1
        change = np.linalg.norm(x - before) / np.linalg.norm(before)
        if change <= config.tolerance:
            break
    return x, rounds


def low_rank(shape, rank, seed=0):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    return matrix, rng.uniform(size=shape) < 0.7


complete = jax.jit(srf_matrix)


@pytest.mark.parametrize(
    "shape, config",
    [
        ((10, 12), SRFConfig()),
        (
            (12, 7),
            SRFConfig(start=1.0, delta_decay=0.6, step_size=0.7, inner_steps=3),
        ),
        ((8, 9), SRFConfig(max_rounds=5)),
    ],
)
def test_equals_numpy(x64, shape, config):
    matrix, mask = low_rank(shape, 3)
    expected, rounds = reference(matrix, mask, config)
    assert rounds == 5 if config.max_rounds == 5 else rounds < config.max_rounds
    got = complete(matrix, mask, config)
    np.testing.assert_allclose(got, expected, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(got)[mask], matrix[mask])


def test_recovers_a_low_rank_matrix(x64):
    """What the method is for: rank 2 from 70 % of the entries, to many digits."""
    matrix, mask = low_rank((30, 30), 2)
    config = SRFConfig(tolerance=1e-7, max_rounds=200)
    got = np.asarray(complete(matrix, mask, config))
    error = np.linalg.norm(got - matrix) / np.linalg.norm(matrix)
    start = np.linalg.norm(np.where(mask, 0, matrix)) / np.linalg.norm(matrix)
    assert error < 1e-4 < start


def test_gradient_equals_finite_differences(x64):
    matrix, mask = low_rank((5, 7), 5, 1)
    rng = np.random.default_rng(2)
    weights, d = rng.normal(size=(2, *matrix.shape))
    config = SRFConfig(delta_decay=0.5, max_rounds=6)
    run = functools.partial(srf_matrix, mask=mask, config=config)
    total = jax.jit(lambda x: jnp.sum(weights * run(x)))
    gradient = jax.jit(jax.grad(total))(matrix)
    numeric = (total(matrix + 1e-6 * d) - total(matrix - 1e-6 * d)) / 2e-6
    np.testing.assert_allclose(np.sum(gradient * d), numeric, rtol=1e-5)


def test_single_precision_is_near_double():
    rng = np.random.default_rng(3)
    smooth = np.outer(np.linspace(0.2, 1, 16), np.linspace(1, 0.3, 16))
    matrix = smooth + 0.05 * rng.uniform(size=(16, 16))
    mask = rng.uniform(size=(16, 16)) < 0.5
    config = SRFConfig(max_rounds=30, tolerance=0.0)
    expected, _ = reference(matrix, mask, config)
    got = complete(matrix.astype(np.float32), mask, config)
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_kept_pixels_stay_to_the_bit():
    image = np.random.default_rng(4).uniform(size=(6, 5, 3)).astype(np.float32)
    config = SRFConfig(keep_probability=0.7, max_rounds=3)
    out = np.asarray(srf(image, jax.random.key(0), config))
    same = np.all(out == image, axis=2)
    assert 0.4 < np.mean(same) < 0.95
