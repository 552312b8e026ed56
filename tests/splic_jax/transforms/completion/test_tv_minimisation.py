"""TV minimisation against SciPy's L-BFGS on a smoothed objective, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from splic_jax.masks.sampling import sample_mask
from splic_jax.transforms.completion.tv_minimisation import (
    TVMinimisationConfig,
    minimise_tv,
    minimise_tv_one,
    tv_minimisation,
)

SHAPE = (6, 7, 2)


def objective(z, x, mask, config, smoothing=0.0):
    """Written out with loops' shapes: rows, columns, channels."""
    total = 0.5 * jnp.sum(mask * (z - x) ** 2)
    for channel in range(z.shape[2]):
        down = z[1:, :, channel] - z[:-1, :, channel]
        right = z[:, 1:, channel] - z[:, :-1, channel]
        if config.form == "rows":
            squares = [jnp.sum(down**2, axis=1), jnp.sum(right**2, axis=0)]
        else:
            down = jnp.concatenate([down, jnp.zeros((1, z.shape[1]))])
            right = jnp.concatenate([right, jnp.zeros((z.shape[0], 1))], axis=1)
            squares = [(down**2 + right**2).ravel()]
        for s in squares:
            total += config.tv_weight * jnp.sum(jnp.sqrt(s + smoothing**2))
    return total


solve = jax.jit(minimise_tv)


def example(seed=0):
    rng = np.random.default_rng(seed)
    edge = (np.arange(SHAPE[1]) > 3)[None, :, None] * 0.5 + 0.2
    x = np.clip(edge + 0.1 * rng.normal(size=SHAPE), 0, 1)
    return x, rng.uniform(size=SHAPE) < 0.5


@pytest.mark.parametrize("form, weight", [("pixels", 0.03), ("rows", 0.1)])
def test_reaches_the_minimum_that_scipy_finds(x64, form, weight):
    x, mask = example()
    config = TVMinimisationConfig(form=form, tv_weight=weight, steps=1000)
    z = solve(x, mask, config)
    ours = objective(z, x, mask, config)

    smoothing = 1e-3
    smoothed = jax.jit(
        jax.value_and_grad(
            lambda z: objective(z.reshape(SHAPE), x, mask, config, smoothing)
        )
    )
    found = minimize(
        lambda z: [np.asarray(a) for a in smoothed(z)],
        np.full(x.size, 0.5),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 200, "ftol": 1e-13, "gtol": 1e-9},
    ).x.reshape(SHAPE)
    theirs = objective(found, x, mask, config)
    assert ours <= theirs * (1 + 1e-5)
    assert theirs <= ours * (1 + 1e-2)
    # The weight matters: what minimises for another one is no minimum.
    other = TVMinimisationConfig(form=form, tv_weight=2 * weight, steps=1000)
    worse = objective(solve(x, mask, other), x, mask, config)
    assert worse > ours * (1 + 1e-3)


def test_default_steps_are_near_the_minimum(x64):
    x, mask = example(1)
    best = solve(x, mask, TVMinimisationConfig(steps=3000))
    got = solve(x, mask, TVMinimisationConfig())
    least = objective(best, x, mask, TVMinimisationConfig())
    found = objective(got, x, mask, TVMinimisationConfig())
    assert least * (1 - 1e-9) <= found <= least * (1 + 1e-3)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_flat_comes_back_flat(value):
    flat = jnp.full((6, 7, 3), value)
    out = tv_minimisation(flat, jax.random.key(0), TVMinimisationConfig())
    np.testing.assert_allclose(out, flat, atol=1e-6)


def test_without_weight_kept_pixels_stay(x64):
    x, mask = example(2)
    z = np.asarray(solve(x, mask, TVMinimisationConfig(tv_weight=0.0)))
    np.testing.assert_allclose(z[mask], x[mask], atol=1e-12)


def test_dropped_pixels_do_not_matter():
    x, _ = example(3)
    x, key = jnp.asarray(x, jnp.float32), jax.random.key(1)
    mask = sample_mask(key, SHAPE, 0.5, "independent")
    config = TVMinimisationConfig(steps=20)
    changed = jnp.where(mask, x, 1 - x)
    run = jax.jit(minimise_tv_one)
    a, b = (run(image, key, config) for image in (x, changed))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("form", ["pixels", "rows"])
def test_gradient_equals_finite_differences(x64, form):
    x, mask = example(4)
    rng = np.random.default_rng(5)
    weights, d = rng.normal(size=(2, *SHAPE))
    config = TVMinimisationConfig(form=form, steps=60)
    total = jax.jit(lambda x: jnp.sum(weights * minimise_tv(x, mask, config)))
    gradient = jax.jit(jax.grad(total))(x)
    numeric = (total(x + 1e-7 * d) - total(x - 1e-7 * d)) / 2e-7
    np.testing.assert_allclose(np.sum(gradient * d), numeric, rtol=1e-5)


def test_gradient_of_a_flat_image_is_finite():
    total = lambda x: jnp.sum(
        minimise_tv_one(x, jax.random.key(0), TVMinimisationConfig(steps=20))
    )
    assert np.all(np.isfinite(jax.jit(jax.grad(total))(jnp.full((4, 5, 1), 0.5))))
