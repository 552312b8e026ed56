"""The spectral step against NumPy's SVD, and its derivative against differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import _reference
from splic_jax.solvers.exact import cut_and_descend

SHAPES = [(6, 6), (4, 9), (9, 4), (1, 5), (32, 32)]


# One program a shape and rank instead of one for each operation.
step = jax.jit(cut_and_descend, static_argnames=("rank", "step_size", "relative"))


def matrix(shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_numpy(x64, shape, relative):
    x = matrix(shape)
    for rank in {1, max(1, min(shape) // 2), min(shape)}:
        for delta in (0.3, 2.0, 50.0):
            got = step(x, delta, rank=rank, step_size=0.5, relative=relative)
            expected = _reference.cut_and_descend(x, delta, rank, 0.5, relative)
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def directional(f, x, direction, h=1e-6):
    return (f(x + h * direction) - f(x - h * direction)) / (2 * h)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("shape", [(6, 6), (4, 7), (7, 4)])
@pytest.mark.parametrize("full", [True, False])
def test_derivative_equals_finite_differences(x64, shape, full, relative):
    rank = min(shape) if full else max(1, min(shape) // 2)
    run = functools.partial(
        cut_and_descend, rank=rank, step_size=0.5, relative=relative
    )
    x, rng = jnp.asarray(matrix(shape, 1)), np.random.default_rng(2)
    weights = rng.normal(size=(2, *shape))
    total = lambda x, delta: jnp.sum(weights * jnp.stack(run(x, delta)))
    gradient, slope = jax.jit(jax.grad(total, (0, 1)))(x, 0.7)
    forward = jax.jit(lambda v: jax.jvp(lambda x: total(x, 0.7), (x,), (v,))[1])
    value = jax.jit(total)
    for _ in range(3):
        direction = rng.normal(size=shape)
        numeric = directional(lambda x: value(x, 0.7), x, direction)
        np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=1e-6)
        pushed = forward(jnp.asarray(direction))
        np.testing.assert_allclose(pushed, numeric, rtol=1e-6)
    numeric = directional(lambda delta: value(x, delta), 0.7, 1.0)
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)


def test_derivative_equals_autodiff_through_the_svd(x64):
    x = jnp.asarray(matrix((6, 5)))

    through_svd = lambda x, d: _reference.cut_and_descend_by_svd(x, d, 2, 0.5)[1]
    ours = lambda x, d: cut_and_descend(x, d, rank=2, step_size=0.5, relative=True)[1]
    expected = jax.jit(jax.jacrev(through_svd, (0, 1)))(x, 0.9)
    got = jax.jit(jax.jacrev(ours, (0, 1)))(x, 0.9)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["zero", "flat", "identity", "rank 1"])
def test_derivative_is_finite_where_the_svds_is_not(kind):
    x = {
        "zero": jnp.zeros((5, 5)),
        "flat": jnp.full((5, 5), 0.5),
        "identity": jnp.eye(5),
        "rank 1": jnp.outer(jnp.arange(5.0), jnp.ones(5)),
    }[kind]
    for rank in (2, 5):
        run = functools.partial(
            cut_and_descend, rank=rank, step_size=0.5, relative=True
        )
        jacobians = jax.jit(jax.jacrev(run))(x, 0.8)
        assert all(np.isfinite(jacobian).all() for jacobian in jacobians)


@pytest.mark.parametrize("relative", [True, False])
def test_derivative_is_finite_at_any_scale_in_float32(relative):
    # Squares of such singular values and of such a delta under- and overflow.
    run = functools.partial(cut_and_descend, step_size=0.5, relative=relative)
    run = jax.jit(jax.jacrev(run, (0, 1)), static_argnames="rank")
    for x in (
        jnp.diag(jnp.array([1.0, 1e-19, 3e-19, 1e-30])),
        jnp.zeros((4, 4)),
        jnp.full((4, 4), 1e-20),
    ):
        for rank in (2, 4):
            for delta in (1e-7, 1e-3):
                jacobians = jax.tree.leaves(run(x, jnp.float32(delta), rank=rank))
                assert all(np.isfinite(jacobian).all() for jacobian in jacobians)


def test_a_vanishing_delta_only_acts_on_rounding_errors():
    x = jnp.asarray(matrix((6, 4)), jnp.float32)
    for delta in (1e-12, 1e-8):
        results = step(x, delta, rank=4, step_size=0.5, relative=True)
        for result in results:
            np.testing.assert_allclose(result, x, rtol=0, atol=1e-6)


def test_uncut_derivative_is_right_at_ties(x64):
    """Without a cut the step is smooth, at the identity and at zero too."""
    run = lambda x: step(x, 0.8, rank=4, step_size=0.5, relative=True)[1]
    pushed = jax.jit(lambda x, v: jax.jvp(run, (x,), (v,))[1])
    rng = np.random.default_rng(0)
    for x in (jnp.eye(4), jnp.zeros((4, 4)), jnp.full((4, 4), 0.5)):
        direction = rng.normal(size=(4, 4))
        got = pushed(x, direction)
        np.testing.assert_allclose(got, directional(run, x, direction), atol=1e-8)
