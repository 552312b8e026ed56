"""The objective, eq. (5), against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from splic_jax import objective, smoothed_rank_gradient, total_variation_gradient

SHAPES = [(6, 6), (3, 8), (8, 3), (1, 5)]
KINDS = {
    "random": lambda shape: np.random.default_rng(0).random(shape),
    "zero": np.zeros,
    "flat": lambda shape: np.full(shape, 0.7),
    "identity": lambda shape: np.eye(*shape),
    "rank one": lambda shape: np.outer(*(np.arange(1.0, n + 1) / n for n in shape)),
}
value_and_grad = jax.jit(jax.value_and_grad(objective))


def reference(x, delta, tv_weight):
    """Eq. (5), and its gradient from eq. (9) and the definition of eq. (6)."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    value = -np.expm1(-((s / delta) ** 2) / 2).sum()
    gradient = (u * (s / delta**2 * np.exp(-((s / delta) ** 2) / 2))) @ vt
    for axis in (0, 1):
        difference = np.diff(x, axis=axis)
        value += tv_weight * (difference**2).sum() / 2
        # Each difference pulls its two pixels, in opposite directions.
        ahead = [slice(None)] * 2
        behind = [slice(None)] * 2
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        gradient[tuple(ahead)] += tv_weight * difference
        gradient[tuple(behind)] -= tv_weight * difference
    return value, gradient


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_autodiff_in_float64(x64, shape):
    for kind, make in KINDS.items():
        x = make(shape)
        unit = np.linalg.norm(x, 2) or 1.0
        for ratio, tv_weight in ((1e-3, 0.02), (0.3, 0.02), (1.0, 2.0), (1e3, 0.0)):
            delta = ratio * unit
            value, gradient = value_and_grad(jnp.asarray(x), delta, tv_weight)
            expected = reference(x, delta, tv_weight)
            np.testing.assert_allclose(value, expected[0], 1e-10, err_msg=kind)
            off = np.linalg.norm(gradient - expected[1], 2)
            scale = np.exp(-1 / 2) / delta + np.linalg.norm(expected[1], 2)
            assert off <= 1e-10 * scale, (kind, ratio)


def test_float32_at_the_default_weight():
    x = KINDS["random"]((16, 16))
    delta = np.linalg.norm(x, 2) / 10
    value, gradient = value_and_grad(jnp.asarray(x, jnp.float32), np.float32(delta))
    expected = reference(x, delta, 0.02)
    assert value.dtype == gradient.dtype == np.float32
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], rtol=0, atol=1e-4 / delta)


def test_autodiff_is_the_sum_of_the_closed_forms(x64):
    x = jnp.asarray(KINDS["random"]((7, 5)))
    autodiff = jax.jit(jax.grad(lambda x: objective(x, 1.1, 0.3, 2)))(x)
    closed = smoothed_rank_gradient(x, 1.1)
    closed += 0.3 * total_variation_gradient(x, scales=2)
    np.testing.assert_allclose(autodiff, closed, rtol=1e-11, atol=1e-12)


def test_first_and_second_derivatives_by_finite_differences(x64):
    f = jax.jit(lambda x: objective(x, 1.3, 0.5))
    x = jnp.asarray(KINDS["flat"]((2, 3)))
    check_grads(f, (x,), order=2, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


def test_hessian_is_the_slope_of_the_gradient(x64):
    hessian = jax.jit(jax.vmap(jax.hessian(objective), in_axes=(0, None, None)))
    shape, step = (3, 4), 1e-5
    x = np.stack([make(shape) for make in KINDS.values()])
    results = hessian(jnp.asarray(x), 0.9, 0.1)
    for kind, matrix, result in zip(KINDS, x, results, strict=True):
        for index in np.ndindex(shape):
            h = np.zeros(shape)
            h[index] = step
            above, below = (reference(matrix + d, 0.9, 0.1)[1] for d in (h, -h))
            expected = (above - below) / (2 * step)
            np.testing.assert_allclose(
                result[(..., *index)], expected, atol=1e-8, err_msg=kind
            )


def test_vmap_equals_one_at_a_time():
    x = jnp.asarray(np.stack([make((6, 6)) for make in KINDS.values()]), jnp.float32)
    together = jax.vmap(value_and_grad, in_axes=(0, None, None))(x, 0.8, 0.02)
    for i, matrix in enumerate(x):
        alone = value_and_grad(matrix, 0.8, 0.02)
        np.testing.assert_allclose(together[0][i], alone[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(together[1][i], alone[1], rtol=1e-4, atol=1e-5)
