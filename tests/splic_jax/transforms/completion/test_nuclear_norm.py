"""Nuclear-norm minimisation against cvxpy, and its optimality conditions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax.transforms.completion.nuclear_norm import (
    NuclearNormConfig,
    nuclear_norm_matrix,
)

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


def stalling(count=4):
    """Bright, with a few dark pixels: rounding keeps some gaps above the tolerance."""
    rng = np.random.default_rng(0)
    matrices = 0.95 - 0.2 * (rng.uniform(size=(count, 32, 96)) < 0.1)
    return matrices.astype(np.float32), rng.uniform(size=matrices.shape) < 0.5


def solve_all(matrices, masks, **settings):
    config = NuclearNormConfig(**settings)
    solve = jax.vmap(functools.partial(nuclear_norm_matrix, config=config))
    return jax.tree.map(np.asarray, jax.jit(solve)(matrices, masks))


def test_an_image_that_stalls_stops_on_an_accelerator(monkeypatch):
    """And is as near the minimum as after all 500 steps; on a CPU it takes these."""
    matrices, masks = stalling()
    expected = solve_all(matrices, masks)
    stalls = expected.gap > 1e-4 * expected.objective
    assert stalls.any() and not stalls.all()
    fewer = solve_all(matrices, masks, max_steps=150)
    moved = (fewer.matrix != expected.matrix).any(axis=(1, 2))
    np.testing.assert_array_equal(moved, stalls)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    got = solve_all(matrices, masks)
    for field, same in zip(got, solve_all(matrices, masks, max_steps=150), strict=True):
        np.testing.assert_array_equal(field, same)
    np.testing.assert_array_equal(got.gap > 1e-4 * got.objective, stalls)
    np.testing.assert_allclose(got.objective, expected.objective, rtol=1e-5)
    for x, matrix, mask, value in zip(
        got.matrix, matrices, masks, got.objective, strict=True
    ):
        exact = objective(x.astype(float), matrix.astype(float), mask, 1.0)
        assert value == pytest.approx(exact, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape, weight", [*CASES, ((32, 96), 0.05)])
def test_an_accelerator_stops_no_sooner_without_rounding(
    x64, monkeypatch, shape, weight
):
    """Where the gap falls slowly and unevenly it is not taken for stalled."""
    matrix, mask = example(shape, 8)
    config = NuclearNormConfig(weight=weight, tolerance=1e-6, max_steps=3000)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    got = jax.jit(functools.partial(nuclear_norm_matrix, config=config))(matrix, mask)
    assert 0 <= got.gap <= 1e-6 * got.objective


def test_an_accelerators_gradient_of_an_image_that_stalls(monkeypatch):
    """That of the steps taken, as where `max_steps` had ended them."""
    matrices, masks = stalling(1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def gradient(max_steps):
        config = NuclearNormConfig(max_steps=max_steps)
        run = functools.partial(nuclear_norm_matrix, config=config)
        total = jax.jit(jax.grad(lambda x, mask: jnp.sum(run(x, mask).matrix ** 2)))
        return np.asarray(total(matrices[0], masks[0]))

    found = gradient(150)
    assert np.isfinite(found).all() and np.abs(found).max() > 0.1
    np.testing.assert_array_equal(found, gradient(200))
