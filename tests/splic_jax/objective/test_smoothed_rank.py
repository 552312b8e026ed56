"""Autodiff of the smoothed rank against an SVD formula in NumPy, float64.

What "relative" means here: the error of a gradient is its spectral norm, as a share of
the norm of the gradient itself where delta >= sigma_1 / 3, and of exp(-1/2) / delta,
the largest a gradient can be, below. There the gradient of a matrix with few distinct
singular values is exponentially small (1e-21 of that for a flat one at sigma_1 / 10),
and no matrix product in any precision has digits of it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from splic_jax import smoothed_rank, smoothed_rank_gradient

SHAPES = [(1, 1), (1, 7), (5, 3), (4, 9), (32, 32)]
RATIOS = 10.0 ** np.arange(-3, 3.25, 0.5)  # delta / sigma_1
DTYPES = ["float32", "float64"]
# The reference itself has rounding errors: LAPACK's float64 SVD of a 3 x 3 matrix gives
# the gradient to 35 eps (against 80-bit floats, which give autodiff's to 2 eps).
REFERENCE_ERROR = 1e-14

value_and_grad = jax.jit(jax.value_and_grad(smoothed_rank))
batched = jax.jit(jax.vmap(jax.value_and_grad(smoothed_rank)))


def reference(x, delta):
    """Eq. (3), eq. (9) and the largest singular value, for stacks of matrices."""
    u, s, vt = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    delta = np.asarray(delta, np.float64)[..., None]
    value = -np.expm1(-((s / delta) ** 2) / 2).sum(-1)
    weight = s / delta**2 * np.exp(-((s / delta) ** 2) / 2)
    return value, (u * weight[..., None, :]) @ vt, s[..., 0]


def matrices(shape, seed=0):
    """One matrix of each kind that differentiating an SVD could trip over."""
    m, n = shape
    rank = max(1, min(shape) // 4)
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(m, min(shape))))[0]
    right = np.linalg.qr(rng.normal(size=(n, min(shape))))[0]
    corner = np.zeros(shape)
    corner[: (m + 1) // 2, : (n + 1) // 2] = rng.random(((m + 1) // 2, (n + 1) // 2))
    return {
        "uniform": rng.random(shape),
        "normal": rng.normal(size=shape),
        "zero": np.zeros(shape),
        "flat": np.full(shape, 0.7),
        "nearly flat": 0.7 + 1e-3 * rng.normal(size=shape),
        "identity": np.eye(m, n),
        "orthogonal": 3 * left @ right.T,
        "rank one": rng.random((m, 1)) * rng.random((1, n)),
        "low rank": rng.random((m, rank)) @ rng.random((rank, n)),
        "padded": corner,
        "graded": left * np.logspace(0, -6, min(shape)) @ right.T,
        "hilbert": 1 / (np.arange(m)[:, None] + np.arange(n) + 1.0),
    }


def evaluate(xs, ratios, dtype):
    """Autodiff's and the reference's value and gradient of every matrix and ratio."""
    xs = np.asarray(xs, dtype)
    largest = np.linalg.norm(xs.astype(np.float64), 2, axis=(1, 2))
    largest = np.where(largest > 0, largest, 1)  # any unit will do for the zero matrix
    sizes = zip(xs, largest, strict=True)
    pairs = [(x, size * ratio) for x, size in sizes for ratio in ratios]
    x = np.stack([x for x, _ in pairs])
    delta = np.array([delta for _, delta in pairs], dtype)
    values, gradients = batched(jnp.asarray(x), jnp.asarray(delta))
    assert gradients.dtype == dtype and values.dtype == dtype
    return x, delta.astype(np.float64), values, gradients


def errors(x, delta, values, gradients):
    """Absolute errors, the reference's norms, and the two bounds of the docstring."""
    value, gradient, largest = reference(x, delta)
    eps, (m, n) = np.finfo(x.dtype).eps, x.shape[-2:]
    ratio = largest / delta
    norm = np.linalg.norm(gradient, 2, axis=(-2, -1))
    unit = 2 * np.sqrt(m * n) * eps * ratio
    return {
        "value": np.abs(np.asarray(values, np.float64) - value),
        "value bound": unit * ratio + REFERENCE_ERROR * value,
        "gradient": np.linalg.norm(
            np.asarray(gradients, np.float64) - gradient, 2, axis=(-2, -1)
        ),
        "gradient bound": unit * np.maximum(1, ratio) / delta + REFERENCE_ERROR * norm,
        "norm": norm,
        "largest": np.exp(-1 / 2) / delta,
        "ratio": ratio,
    }


@pytest.fixture
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.mark.parametrize("dtype", DTYPES, indirect=True)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_svd_formula(shape, dtype):
    results = evaluate(list(matrices(shape).values()), RATIOS, dtype)
    assert np.isfinite(results[2]).all() and np.isfinite(results[3]).all()
    e = errors(*results)
    # A hair above 3 and 10: delta was rounded.
    by_norm = e["ratio"] < 3.001
    relative_to = np.where(by_norm, e["norm"], e["largest"])
    if dtype == "float64":
        assert (e["gradient"] <= 1e-10 * relative_to).all()
    else:
        asked = e["ratio"] < 10.001
        assert (e["gradient"] <= 1e-4 * relative_to)[asked].all()
    assert (e["value"] <= e["value bound"]).all()
    assert (e["gradient"] <= e["gradient bound"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(256, 256), (2, 4096)], ids=str)
def test_large_matrices(shape):
    kinds = matrices(shape)
    for kind, ratio in [
        ("nearly flat", 0.1),
        ("flat", 1.0),
    ]:
        x = kinds[kind].astype(np.float32)
        delta = np.float32(ratio * np.linalg.norm(x.astype(np.float64), 2))
        e = errors(x, np.float64(delta), *value_and_grad(jnp.asarray(x), delta))
        assert e["value"] <= e["value bound"], (kind, ratio)
        assert e["gradient"] <= e["gradient bound"], (kind, ratio)
        if ratio >= 0.1:
            assert e["gradient"] <= 1e-4 * e["largest"], (kind, ratio)


def test_large_matrix_in_float64(x64):
    x = matrices((128, 128))["graded"]
    delta = 3e-3 * np.linalg.norm(x, 2)
    e = errors(x, delta, *value_and_grad(jnp.asarray(x), delta))
    assert e["gradient"] <= 1e-10 * e["norm"]
    assert e["value"] <= e["value bound"]


def test_the_stated_bounds_are_not_loose():
    # Or the tests above would say little: some matrix comes within a factor of 4.
    xs = np.random.default_rng(0).normal(size=(500, 1, 1))
    e = errors(*evaluate(xs, [0.7, 1.0, 30.0], "float32"))
    assert 0.25 < (e["gradient"] / e["gradient bound"]).max() <= 1
    assert 0.25 < (e["value"] / e["value bound"]).max() <= 1


@settings(deadline=None, max_examples=40)
@given(
    shape=st.sampled_from([(2, 5), (6, 6), (9, 4)]),
    rank=st.integers(0, 6),
    scale=st.floats(-15, 15),
    ratio=st.floats(-3, 3),
    seed=st.integers(0, 2**32 - 1),
)
@example(shape=(6, 6), rank=3, scale=-15, ratio=-3, seed=0)
@example(shape=(9, 4), rank=4, scale=15, ratio=-3, seed=0)
def test_any_shape_rank_unit_and_delta(shape, rank, scale, ratio, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    # A power of two, so that float64 and float32 hold the same matrix.
    x = np.ldexp(x, round(scale * np.log2(10))).astype(np.float32)
    unit = np.linalg.norm(x.astype(np.float64), 2) or 1.0
    delta = np.float32(10**ratio * unit)
    e = errors(x, np.float64(delta), *value_and_grad(jnp.asarray(x), delta))
    assert e["value"] <= e["value bound"]
    assert e["gradient"] <= e["gradient bound"]
    if ratio >= -1:
        assert e["gradient"] <= 1e-4 * e["largest"]
    with jax.enable_x64(True):
        wide, delta = x.astype(np.float64), np.float64(delta)
        e = errors(wide, delta, *value_and_grad(jnp.asarray(wide), delta))
        assert e["gradient"] <= 1e-10 * e["largest"]
        assert e["value"] <= e["value bound"]


@pytest.mark.parametrize("dtype", DTYPES, indirect=True)
def test_a_vanishing_delta_acts_as_the_smallest_meaningful_one(dtype):
    for kind, x in matrices((12, 12)).items():
        if kind == "zero":
            continue  # has no such delta
        x = jnp.asarray(x, dtype)
        gram = np.asarray(x, np.float64).T @ np.asarray(x, np.float64)
        floor = np.sqrt(np.finfo(dtype).eps * np.linalg.norm(gram)) / 2
        values, gradients = batched(
            jnp.stack([x] * 3), jnp.asarray([0, 0.9 * floor, floor], dtype)
        )
        # No digit left, but no overflow either.
        assert (-1 < values).all() and (values < 13).all(), kind
        assert (np.linalg.norm(gradients, 2, axis=(1, 2)) <= 2 / floor).all(), kind
        assert values[0] == values[1], kind
    exact = np.stack([np.eye(12), 3 * np.eye(12)[:, ::-1], np.zeros((12, 12))])
    values, gradients = batched(jnp.asarray(exact, dtype), jnp.zeros(3, dtype))
    assert values.tolist() == [12, 12, 0]
    assert not gradients.any()


def test_limits(x64):
    x = jnp.asarray(matrices((8, 10))["low rank"])
    assert np.linalg.matrix_rank(x) == 2
    smallest = np.linalg.svd(x, compute_uv=False)[1]
    np.testing.assert_allclose(smoothed_rank(x, smallest / 20), 2, rtol=1e-10)
    delta = 1e7 * np.linalg.norm(x)
    square = np.sum(np.asarray(x) ** 2)
    np.testing.assert_allclose(
        smoothed_rank(x, delta), square / (2 * delta**2), rtol=1e-13
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_any_unit_in_float32(scale):
    # The square of such a number is no float32, nor is the gradient's eps.
    x = matrices((6, 4))["uniform"]
    value, gradient = value_and_grad(jnp.asarray(x, jnp.float32), 1.0)
    scaled = value_and_grad(jnp.asarray(x * scale, jnp.float32), jnp.float32(scale))
    np.testing.assert_allclose(scaled[0], value, rtol=1e-5)
    np.testing.assert_allclose(scaled[1] * scale, gradient, rtol=1e-4, atol=1e-6)


KINDS = ["zero", "flat", "orthogonal"]


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("shape", [(3, 3), (2, 4)], ids=str)
def test_first_and_second_derivatives_by_finite_differences(x64, shape, mode):
    f = jax.jit(smoothed_rank)
    for kind in KINDS:
        x = jnp.asarray(matrices(shape)[kind])
        check_grads(f, (x, 1.3), order=2, modes=[mode], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 4), (2, 6)], ids=str)
def test_hessian_is_the_slope_of_eq_9(x64, shape):
    # Central differences of the reference's gradient, not of any of our code.
    hessian = jax.jit(jax.vmap(jax.hessian(smoothed_rank), in_axes=(0, None)))
    x = np.stack(list(matrices(shape).values()))
    step = 1e-5
    for delta in (0.3, 0.8, 5.0):
        expected = np.zeros(x.shape + shape)
        for index in np.ndindex(shape):
            h = np.zeros(shape)
            h[index] = step
            difference = reference(x + h, delta)[1] - reference(x - h, delta)[1]
            expected[(..., *index)] = difference / (2 * step)
        np.testing.assert_allclose(hessian(jnp.asarray(x), delta), expected, atol=1e-7)
    for delta in (1e-6, 1e-3, 1e3):
        assert np.isfinite(hessian(jnp.asarray(x), delta)).all()


def test_hessian_is_finite_everywhere_in_float32():
    hessian = jax.jit(jax.vmap(jax.hessian(smoothed_rank)))
    x = jnp.asarray(np.stack(list(matrices((3, 2)).values())), jnp.float32)
    unit = jnp.maximum(jnp.linalg.norm(x, axis=(1, 2)), 1e-3)
    for ratio in (1e-6, 1e-3, 1, 1e3):
        assert np.isfinite(hessian(x, unit * ratio)).all()


def test_derivative_in_delta(x64):
    slope = jax.jit(jax.grad(smoothed_rank, argnums=1))
    for kind, x in matrices((6, 4)).items():
        s, delta = np.linalg.svd(x, compute_uv=False), 0.7
        expected = -np.sum(s**2 / delta**3 * np.exp(-((s / delta) ** 2) / 2))
        result = slope(jnp.asarray(x), delta)
        np.testing.assert_allclose(result, expected, rtol=1e-10, err_msg=kind)


def test_no_custom_derivative_and_no_decomposition():
    # Eq. (9) must be found by autodiff, or the tests compare a formula with itself.
    text = str(jax.make_jaxpr(smoothed_rank)(jnp.ones((4, 3)), 1.0))
    assert "dot_general" in text
    for word in ("custom_jvp", "custom_vjp", "svd", "eigh", "callback"):
        assert word not in text


def test_jit_and_vmap_equal_eager():
    kinds = matrices((5, 3))
    x = jnp.asarray(np.stack(list(kinds.values())), jnp.float32)
    delta = jnp.asarray(np.logspace(-2, 1, len(x)), jnp.float32)
    i = list(kinds).index("low rank")
    eager = jax.value_and_grad(smoothed_rank)(x[i], delta[i])
    compiled = value_and_grad(x[i], delta[i])
    together = [result[i] for result in batched(x, delta)]
    # The same sums in another order: each is within the stated bound.
    e = errors(np.asarray(x[i]), np.float64(delta[i]), *eager)
    for value, gradient in (compiled, together):
        assert abs(value - eager[0]) <= 2 * e["value bound"]
        assert np.linalg.norm(gradient - eager[1], 2) <= 2 * e["gradient bound"]


@pytest.mark.parametrize("dtype", DTYPES, indirect=True)
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (32, 32)], ids=str)
def test_closed_form_equals_eq_9(shape, dtype):
    # Its digits are lost only to those of the singular values: eps sigma_1 / delta.
    closed = jax.jit(smoothed_rank_gradient)
    for kind, x in matrices(shape).items():
        x = x.astype(dtype)
        unit = np.linalg.norm(x.astype(np.float64), 2) or 1.0
        for ratio in (1e-3, 0.1, 1.0, 1e3):
            delta = np.asarray(ratio * unit, dtype)
            result = closed(jnp.asarray(x), delta)
            assert result.dtype == dtype
            _, expected, largest = reference(x, delta)
            off = np.linalg.norm(np.asarray(result, np.float64) - expected, 2)
            ratio = largest / np.float64(delta)
            bound = 40 * np.finfo(dtype).eps * ratio / delta
            assert off <= bound, (kind, ratio)
