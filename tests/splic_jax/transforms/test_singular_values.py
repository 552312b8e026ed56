"""Functions of singular values against NumPy's SVD, derivatives against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax.transforms.singular_values import (
    descend_smoothed_rank,
    largest,
    soft_threshold,
)

SHAPES = [(4, 9), (9, 4), (1, 5)]
RULES = {
    "threshold": (soft_threshold, lambda s, p: np.maximum(s - p, 0)),
    "descent": (
        lambda x, p: descend_smoothed_rank(x, p, 0.8),
        lambda s, p: s * (1 - 0.8 * np.exp(-((s / p) ** 2) / 2)),
    ),
}


def reference(x, function, parameter):
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return u @ np.diag(function(s, parameter)) @ vt


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_numpy(x64, shape, rule):
    ours, function = RULES[rule]
    x, ours = np.random.default_rng(0).normal(size=shape), jax.jit(ours)
    for parameter in (1e-3, 0.7, 2.0, 1e3):
        expected = reference(x, function, parameter)
        got = ours(jnp.asarray(x), parameter)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
    assert largest(jnp.asarray(x)) == pytest.approx(np.linalg.norm(x, 2), rel=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_single_precision(rule):
    ours, function = RULES[rule]
    x = np.random.default_rng(1).uniform(-1, 1, size=(32, 96)).astype(np.float32)
    parameter = np.linalg.norm(x, 2) / 50
    expected = reference(x.astype(np.float64), function, parameter)
    np.testing.assert_allclose(
        ours(jnp.asarray(x), parameter), expected, rtol=0, atol=2e-4
    )


def with_values(values, shape, seed=2):
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.normal(size=(shape[0], len(values))))
    v, _ = np.linalg.qr(rng.normal(size=(shape[1], len(values))))
    return jnp.asarray(u @ np.diag(values) @ v.T)


@pytest.mark.parametrize("rule", RULES)
def test_derivative_equals_finite_differences(x64, rule):
    """At repeated and vanishing singular values too; the threshold 0.9 is none."""
    ours, rng = RULES[rule][0], np.random.default_rng(3)
    weights, h = rng.normal(size=(5, 7)), 1e-5
    total = jax.jit(lambda x, p: jnp.sum(weights * ours(x, p)))
    slopes = jax.jit(jax.grad(total, (0, 1)))
    for values in [(3.0, 2.0, 1.0, 0.5), (2.0, 2.0, 0.5, 0.5), (0, 0)]:
        x = with_values(values, (5, 7))
        gradient, slope = slopes(x, 0.9)
        for _ in range(3):
            d = rng.normal(size=x.shape)
            numeric = (total(x + h * d, 0.9) - total(x - h * d, 0.9)) / (2 * h)
            got = np.sum(gradient * d)
            np.testing.assert_allclose(got, numeric, rtol=1e-5, atol=1e-7)
        numeric = (total(x, 0.9 + h) - total(x, 0.9 - h)) / (2 * h)
        np.testing.assert_allclose(slope, numeric, rtol=1e-5, atol=1e-7)
