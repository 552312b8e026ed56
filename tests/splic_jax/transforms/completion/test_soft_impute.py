"""Soft-Impute against fancyimpute's loop in NumPy, and its optimality."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax.layout.channels import to_matrices
from splic_jax.masks.sampling import sample_mask
from splic_jax.transforms.completion.soft_impute import (
    SoftImputeConfig,
    soft_impute_matrix,
    soft_impute_one,
)


def threshold(x, amount):
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return u @ np.diag(np.maximum(s - amount, 0)) @ vt


def reference(matrix, mask, tolerance=1e-3, max_iters=100, shrinkages=None):
    """fancyimpute's loop, one shrinkage after another."""
    x, missing = np.where(mask, matrix, 0.0), ~mask
    if shrinkages is None:
        shrinkages = [np.linalg.norm(x, 2) / 50]
    steps = 0
    for shrinkage in shrinkages:
        for _ in range(max_iters):
            new = threshold(x, shrinkage)
            moved = np.sqrt(np.sum((x[missing] - new[missing]) ** 2))
            size = np.sqrt(np.sum(x[missing] ** 2))
            x[missing] = new[missing]
            steps += 1
            if size > 0 and moved / size < tolerance:
                break
    return x, steps


def example(shape, seed=0):
    rng = np.random.default_rng(seed)
    low_rank = rng.uniform(-1, 1, (shape[0], 2)) @ rng.uniform(-1, 1, (2, shape[1]))
    matrix = np.clip(low_rank + 0.1 * rng.normal(size=shape), -1, 1)
    return matrix, rng.uniform(size=shape) < 0.6


complete = jax.jit(soft_impute_matrix)


@pytest.mark.parametrize("shape, tolerance", [((8, 16), 1e-3), ((12, 8), 1e-2)])
def test_equals_fancyimpute(x64, shape, tolerance):
    for seed in range(3):
        matrix, mask = example(shape, seed)
        expected, steps = reference(matrix, mask, tolerance)
        assert 5 < steps < 100 or tolerance == 1e-3
        got = complete(matrix, mask, SoftImputeConfig(tolerance=tolerance))
        np.testing.assert_allclose(got, expected, atol=1e-9)
        np.testing.assert_array_equal(np.asarray(got)[mask], matrix[mask])


def test_path_starts_each_shrinkage_from_the_last(x64):
    matrix, mask = example((10, 14))
    largest = np.linalg.norm(np.where(mask, matrix, 0), 2)
    shrinkages = largest * 0.02 ** (np.arange(1, 6) / 5)
    expected, _ = reference(matrix, mask, shrinkages=shrinkages)
    got = complete(matrix, mask, SoftImputeConfig(path=5))
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_minimises_its_objective(x64):
    """0 is in P(Z - X) + lambda d||Z||_*.

    X - Z is lambda times a subgradient for any X, if Z is X with its singular values
    lowered by lambda; what is left to hold is that X - Z vanishes where X was missing.
    """
    matrix, mask = example((9, 13))
    config = SoftImputeConfig(tolerance=0.0, max_steps=2000, path=2)
    x = np.asarray(complete(matrix, mask, config))
    shrinkage = 0.02 * np.linalg.norm(np.where(mask, matrix, 0), 2)
    rest = x - threshold(x, shrinkage)
    assert np.max(np.abs(rest[~mask])) < 1e-10 < 0.1 * np.max(np.abs(rest[mask]))


def test_image_equals_its_matrix(x64):
    image = np.random.default_rng(4).uniform(size=(8, 7, 3))
    key, config = jax.random.key(2), SoftImputeConfig()
    kept = np.asarray(sample_mask(key, image.shape, 0.5, "independent"))
    (matrix,) = np.asarray(to_matrices(jnp.asarray(2 * image - 1), "concatenated"))
    (mask,) = np.asarray(to_matrices(jnp.asarray(kept), "concatenated"))
    expected = (np.clip(reference(matrix, mask)[0], -1, 1) + 1) / 2
    expected = np.stack(np.split(expected, 3, axis=1), axis=2)
    got = jax.jit(soft_impute_one)(image, key, config)
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_gradient_equals_finite_differences(x64):
    matrix, mask = example((6, 8))
    rng = np.random.default_rng(5)
    weights, d = rng.normal(size=(2, *matrix.shape))
    config = SoftImputeConfig(path=2, max_steps=30)
    run = functools.partial(soft_impute_matrix, mask=mask, config=config)
    total = jax.jit(lambda x: jnp.sum(weights * run(x)))
    gradient = jax.jit(jax.grad(total))(matrix)
    numeric = (total(matrix + 1e-6 * d) - total(matrix - 1e-6 * d)) / 2e-6
    np.testing.assert_allclose(np.sum(gradient * d), numeric, rtol=1e-6)
