"""Functions of singular values against NumPy's SVD, derivatives against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax.solvers.exact import cut_and_descend
from splic_jax.transforms.completion import singular_values
from splic_jax.transforms.completion.singular_values import (
    descend_smoothed_rank,
    largest,
    soft_threshold,
    truncate,
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


def examples():
    rng = np.random.default_rng(4)
    mask = rng.uniform(size=(32, 96)) < 0.5
    yield "noise", rng.uniform(-1, 1, (32, 96)) * mask
    yield "tall", rng.uniform(-1, 1, (96, 32))
    yield "square", rng.uniform(-1, 1, (32, 32))
    yield "row", rng.uniform(-1, 1, (1, 40))
    yield "column", rng.uniform(-1, 1, (40, 1))
    yield "flat", np.full((32, 96), 0.7)
    yield "black, masked", -1.0 * mask
    yield "nothing", np.zeros((32, 96))
    low = rng.normal(size=(32, 5)) @ rng.normal(size=(5, 96))
    yield "rank 5", low / np.abs(low).max()
    yield "decaying", with_values(16 * 0.6 ** np.arange(32.0), (32, 96))


EXAMPLES = {name: np.asarray(x, np.float32) for name, x in examples()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_accelerators_run_equals_numpy(name):
    """In float32; what is near the border of a cut may be on either side of it."""
    x = EXAMPLES[name]
    exact = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    s, count = exact.S, len(exact.S)
    scale = max(s[0], 1e-30)
    # Where there are singular values of all sizes, the square root of eps shows.
    rounding = 3e-4 if name == "decaying" else 1e-5
    found = float(singular_values._nuclear_norm(jnp.asarray(x)))
    assert found == pytest.approx(np.sum(s), rel=2e-5)
    assert singular_values._largest(jnp.asarray(x)) == pytest.approx(s[0], rel=2e-6)
    for rank in {1, max(1, int(0.8 * count)), count}:
        got = singular_values._truncated(jnp.asarray(x), rank)
        kept = (exact.U[:, :rank] * s[:rank]) @ exact.Vh[:rank]
        # How far it is from the best matrix of that rank, which need not be one alone.
        error, best = np.linalg.norm(x - got, 2), s[rank] if rank < count else 0
        assert best - 1e-6 * scale <= error <= best + rounding * scale
        if rank < count and s[rank - 1] ** 2 - s[rank] ** 2 > 1e-3 * scale**2:
            np.testing.assert_allclose(got, kept, rtol=0, atol=1e-5 * scale)


def test_derivatives_of_what_accelerators_run(x64):
    """Those of the SVD; and finite for a matrix of zeros, or one of equal rows."""
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(7, 5))
    x = rng.normal(size=(7, 5))

    def weighted(cut):
        return lambda x: jnp.sum(weights * cut(x, 3))

    for ours, plain in [
        (weighted(singular_values._truncated), weighted(truncate)),
        (singular_values._largest, largest),
    ]:
        slope = jax.jit(jax.grad(ours))
        expected = jax.jit(jax.grad(plain))(x)
        np.testing.assert_allclose(slope(x), expected, rtol=1e-9, atol=1e-10)
        for flat in (np.zeros((7, 5)), np.ones((7, 5))):
            assert np.isfinite(slope(flat)).all()


def test_truncation_on_a_cpu_is_that_of_the_svd():
    x = jnp.asarray(EXAMPLES["noise"])
    cut, _ = cut_and_descend(x, 1.0, rank=25, step_size=0.0, relative=True)
    np.testing.assert_array_equal(truncate(x, 25), cut)
    difference = singular_values._truncated(x, 25) - cut
    assert np.abs(difference).max() < 2e-5
