"""Nuclear-norm minimisation against cvxpy, and its optimality conditions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax.transforms.nuclear_norm import NuclearNormConfig, nuclear_norm_matrix

CASES = [((5, 9), 1.0), ((8, 5), 0.2)]


def example(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, size=shape), rng.uniform(size=shape) < 0.6


def objective(x, matrix, mask, weight):
    nuclear = np.sum(np.linalg.svd(x, compute_uv=False))
    return weight * nuclear + np.sum((mask * (x - matrix)) ** 2)


solve = jax.jit(nuclear_norm_matrix)


@pytest.mark.parametrize("shape, weight", CASES)
def test_equals_cvxpy(x64, shape, weight):
    """The objective to the accuracy asked for, and the matrix, which needs more."""
    cvxpy = pytest.importorskip("cvxpy", reason="cvxpy is not installed")
    matrix, mask = example(shape)
    x = cvxpy.Variable(shape)
    error = cvxpy.sum_squares(cvxpy.multiply(mask.astype(float), x - matrix))
    problem = cvxpy.Problem(cvxpy.Minimize(weight * cvxpy.normNuc(x) + error))
    problem.solve(solver=cvxpy.CLARABEL)

    got = solve(matrix, mask, NuclearNormConfig(weight=weight))
    assert got.objective == pytest.approx(problem.value, rel=1e-4)
    fine = NuclearNormConfig(weight=weight, tolerance=1e-8, max_steps=5000)
    np.testing.assert_allclose(
        solve(matrix, mask, fine).matrix, x.value, rtol=0, atol=1e-3
    )


def test_single_precision_reaches_the_accuracy_asked_for():
    matrix, mask = example((32, 96), 6)
    got = solve(matrix.astype(np.float32), mask, NuclearNormConfig())
    assert 0 <= got.gap <= 1e-4 * got.objective
    x = np.asarray(got.matrix, np.float64)
    assert got.objective == pytest.approx(objective(x, matrix, mask, 1.0), rel=1e-5)


@pytest.mark.parametrize("shape, weight", CASES)
def test_satisfies_the_optimality_conditions(x64, shape, weight):
    """``G = 2 M (A - X)`` is mu times a subgradient of the nuclear norm at X.

    That is: ``||G||_2 <= mu`` and ``<G, X> = mu ||X||_*``.
    """
    matrix, mask = example(shape, 1)
    config = NuclearNormConfig(weight=weight, tolerance=1e-12, max_steps=20000)
    got = solve(matrix, mask, config)
    x = np.asarray(got.matrix)
    g = 2 * mask * (matrix - x)
    nuclear = np.sum(np.linalg.svd(x, compute_uv=False))
    assert nuclear > 0.1
    assert np.linalg.norm(g, 2) <= weight * (1 + 1e-5)
    np.testing.assert_allclose(np.sum(g * x), weight * nuclear, rtol=1e-5)
    expected = objective(x, matrix, mask, weight)
    assert got.objective == pytest.approx(expected, rel=1e-12)


def test_gap_bounds_the_distance_to_the_minimum(x64):
    matrix, mask = example((8, 11), 2)
    best = solve(matrix, mask, NuclearNormConfig(tolerance=1e-13, max_steps=20000))
    for tolerance in (1e-2, 1e-5):
        got = solve(matrix, mask, NuclearNormConfig(tolerance=tolerance))
        excess = got.objective - best.objective
        assert -1e-12 <= excess <= got.gap <= tolerance * got.objective


def test_large_weight_gives_zero(x64):
    matrix, mask = example((4, 6), 3)
    got = solve(matrix, mask, NuclearNormConfig(weight=100.0))
    np.testing.assert_array_equal(got.matrix, np.zeros((4, 6)))
    assert got.objective == pytest.approx(np.sum((mask * matrix) ** 2))


def test_gradient_equals_finite_differences(x64):
    matrix, mask = example((6, 8), 4)
    rng = np.random.default_rng(5)
    weights, d = rng.normal(size=(2, *matrix.shape))
    config = NuclearNormConfig(weight=0.3, tolerance=1e-9, max_steps=500)
    run = functools.partial(nuclear_norm_matrix, mask=mask, config=config)
    total = jax.jit(lambda x: jnp.sum(weights * run(x).matrix))
    gradient = jax.jit(jax.grad(total))(matrix)
    numeric = (total(matrix + 1e-5 * d) - total(matrix - 1e-5 * d)) / 2e-5
    np.testing.assert_allclose(np.sum(gradient * d), numeric, rtol=1e-3)


def test_as_an_accelerator_runs_it(monkeypatch):
    matrix, mask = example((32, 96), 7)
    matrix, config = matrix.astype(np.float32), NuclearNormConfig()
    expected = solve(matrix, mask, config)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    got = jax.jit(functools.partial(nuclear_norm_matrix, config=config))(matrix, mask)
    assert 0 <= got.gap <= 1e-4 * got.objective
    assert got.objective == pytest.approx(float(expected.objective), rel=2e-4)
    np.testing.assert_allclose(got.matrix, expected.matrix, rtol=0, atol=1e-3)
