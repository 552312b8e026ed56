"""The total variation against literal loops over eq. (6) and (10), in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from splic_jax import total_variation, total_variation_gradient
from splic_jax.objective.total_variation_gradient import difference_matrix

SHAPES = [(1, 1), (1, 6), (6, 1), (4, 7)]

# One program a shape instead of one for each operation.
value_of = jax.jit(total_variation, static_argnames="scales")
gradient_of = jax.jit(total_variation_gradient, static_argnames=("form", "scales"))
autodiff_of = jax.jit(jax.grad(total_variation), static_argnames="scales")


def equation_6(x):
    """Term by term as printed, with the paper's indices (from 1)."""
    m, n = x.shape
    at = lambda i, j: float(x[i - 1, j - 1])
    total = 0.0
    for i in range(1, m):
        for j in range(1, n):
            down, right = at(i, j) - at(i + 1, j), at(i, j) - at(i, j + 1)
            total += (down**2 + right**2) / 2
    for i in range(1, m):
        total += (at(i, n) - at(i + 1, n)) ** 2 / 2
    for j in range(1, n):
        total += (at(m, j) - at(m, j + 1)) ** 2 / 2
    return total


def equation_10(x):
    """Case by case as printed; 0 at the corner i = m, j = n, which no case can mean."""
    m, n = x.shape
    at = lambda i, j: float(x[i - 1, j - 1])
    gradient = np.zeros((m, n))
    for i in range(1, m + 1):
        for j in range(1, n + 1):
            if i < m and j < n:
                value = 2 * at(i, j) - at(i + 1, j) - at(i, j + 1)
            elif i == m and j < n:
                value = at(i, j) - at(i, j + 1)
            elif j == n and i < m:
                value = at(i, j) - at(i + 1, j)
            else:
                value = 0.0
            gradient[i - 1, j - 1] = value
    return gradient


def backward_differences(x):
    """x[i, j] - x[i - 1, j] and x[i, j] - x[i, j - 1], where there is such a pixel."""
    result = np.zeros(x.shape)
    for i, j in np.ndindex(x.shape):
        if i > 0:
            result[i, j] += float(x[i, j]) - float(x[i - 1, j])
        if j > 0:
            result[i, j] += float(x[i, j]) - float(x[i, j - 1])
    return result


def halved(x):
    """Means of 2 x 2 blocks, the last row or column of an odd side taken twice."""
    m, n = x.shape
    result = np.zeros(((m + 1) // 2, (n + 1) // 2))
    for i, j in np.ndindex(result.shape):
        rows, columns = [2 * i, min(2 * i + 1, m - 1)], [2 * j, min(2 * j + 1, n - 1)]
        result[i, j] = np.mean([x[p, q] for p in rows for q in columns])
    return result


def image(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_is_equation_6(x64, shape):
    x = image(shape)
    np.testing.assert_allclose(value_of(x), equation_6(x), 1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_autodiff_of_equation_6_is_the_exact_form(x64, shape):
    x = jnp.asarray(image(shape))
    exact = np.asarray(gradient_of(x, form="exact"))
    np.testing.assert_allclose(autodiff_of(x), exact, 1e-12, 1e-14)
    np.testing.assert_array_equal(gradient_of(x), exact)
    # ... and of nothing but eq. (6): it is quadratic, so one wide step is exact.
    for index in np.ndindex(shape):
        h = np.zeros(shape)
        h[index] = 0.5
        slope = equation_6(x + h) - equation_6(x - h)
        np.testing.assert_allclose(exact[index], slope, 1e-11, 1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_printed_form_is_equation_10_and_lacks_the_backward_differences(x64, shape):
    x = image(shape)
    printed = np.asarray(gradient_of(x, form="printed"))
    exact = np.asarray(autodiff_of(x))
    np.testing.assert_allclose(printed, equation_10(x), 1e-14, 1e-15)
    np.testing.assert_allclose(exact - printed, backward_differences(x), 1e-12, 1e-14)
    if x.size > 1:
        assert not np.allclose(exact, printed)


def test_equation_10_is_the_gradient_of_no_function(x64):
    # The Jacobian of a gradient is symmetric; that of (10) is not, that of (6)'s is.
    def jacobian(form):
        field = lambda x: total_variation_gradient(x.reshape(3, 4), form).ravel()
        return np.asarray(jax.jit(jax.jacfwd(field))(np.zeros(12)))

    assert (jacobian("exact") == jacobian("exact").T).all()
    assert (jacobian("printed") != jacobian("printed").T).any()
    hessian = jax.jit(jax.hessian(total_variation))(np.ones((3, 4))).reshape(12, 12)
    np.testing.assert_array_equal(hessian, jacobian("exact"))


@pytest.mark.parametrize("scales", [2, 4])
@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (1, 6)], ids=str)
def test_pyramid(x64, shape, scales):
    x = image(shape)
    levels = [x]
    for _ in range(scales - 1):
        levels.append(halved(levels[-1]))
    expected = sum(equation_6(level) for level in levels)
    np.testing.assert_allclose(value_of(x, scales=scales), expected, 1e-13)
    exact = gradient_of(x, scales=scales)
    autodiff = autodiff_of(x, scales=scales)
    np.testing.assert_allclose(exact, autodiff, 1e-12, 1e-14)
    printed = gradient_of(x, form="printed", scales=scales)
    assert not np.allclose(printed, exact)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.sampled_from([(1, 1), (1, 4), (5, 3)]),
    scale=st.floats(-10, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_float32_of_any_shape_and_unit(shape, scale, seed):
    x = (image(shape, seed) * 10**scale).astype(np.float32)
    value = value_of(x)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, equation_6(x), rtol=1e-5)
    unit = float(np.abs(x).max())
    for form, expected in (
        ("printed", equation_10(x)),
        ("exact", equation_10(x) + backward_differences(x)),
    ):
        gradient = gradient_of(x, form=form)
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * unit)


@pytest.mark.parametrize("scales", [1, 3])
def test_first_and_second_derivatives_by_finite_differences(x64, scales):
    x = jnp.asarray(image((3, 4)))
    f = jax.jit(lambda x: total_variation(x, scales))
    check_grads(f, (x,), order=2, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("form", ["exact", "printed"])
def test_difference_matrices_give_the_gradient(form):
    x = np.random.default_rng(0).normal(size=(13, 32)).astype(np.float32)
    rows, columns = (
        np.asarray(difference_matrix(side, form, padded))
        for side, padded in zip(x.shape, (16, 32), strict=True)
    )
    padded = np.pad(x, ((0, 3), (0, 0)))
    got = rows @ padded + padded @ columns.T
    expected = total_variation_gradient(x, form)
    np.testing.assert_allclose(got[:13], expected, atol=1e-5)
    assert not got[13:].any()


def test_flat_images_have_none():
    x = jnp.full((6, 5), 0.7)
    assert value_of(x, scales=3) == 0
    assert not gradient_of(x, scales=3).any()
    assert not autodiff_of(x).any()


def test_jit_and_vmap_equal_eager():
    x = jnp.asarray(np.stack([image((4, 6), seed) for seed in range(3)]), jnp.float32)
    value_and_grad = jax.value_and_grad(lambda x: total_variation(x, 2))
    gradient = lambda x: total_variation_gradient(x, "printed", 2)
    for f in (value_and_grad, gradient):
        together = jax.jit(jax.vmap(f))(x)
        alone = [jax.jit(f)(image) for image in x]
        eager = [f(image) for image in x]
        stack = lambda *leaves: jnp.stack(leaves)
        for results in (alone, eager):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                together,
                jax.tree.map(stack, *results),
            )


def test_an_unknown_form_is_refused_by_name():
    unchecked = getattr(total_variation_gradient, "__wrapped__", None)
    with pytest.raises(ValueError, match="'exact' or 'printed', got 'forward'"):
        (unchecked or total_variation_gradient)(jnp.ones((2, 2)), form="forward")
