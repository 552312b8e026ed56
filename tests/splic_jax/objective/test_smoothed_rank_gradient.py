"""The weight of eq. (9), in the closed form and in every solver's step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax import SPLICConfig, smoothed_rank_gradient
from splic_jax.objective.smoothed_rank_gradient import (
    spectral_weight,
    spectral_weight_differences,
)
from splic_jax.solvers.exact import Exact
from splic_jax.solvers.kernel import Kernel
from splic_jax.solvers.tracked import Tracked

VALUES = np.geomspace(1, 0.1, 16).astype(np.float32)
CONFIG = SPLICConfig(rank=12, tv_weight=0.0)
SOLVERS = {
    "exact": Exact(CONFIG),
    "tracked": Tracked(CONFIG),
    "kernel": Kernel(CONFIG, 12, True, [], None),
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_every_step_has_it(name, delta):
    x, basis, unit = jnp.diag(VALUES), jnp.eye(16), jnp.ones(())
    held = (x,) if name == "kernel" else x  # in tiles
    basis = None if name == "exact" else basis
    step = jax.jit(SOLVERS[name].step)
    descended, _ = step(held, basis, jnp.float32(delta), unit)
    kept = np.arange(16) < 12
    weights = kept * (
        1 - CONFIG.step_size * spectral_weight(jnp.asarray(VALUES / delta) ** 2)
    )
    got = descended[0] if name == "kernel" else descended
    np.testing.assert_allclose(got, np.diag(weights * VALUES), atol=2e-6)


def test_the_closed_form_has_it():
    x = np.diag(VALUES)
    expected = VALUES / 4 * spectral_weight(jnp.asarray(VALUES / 2) ** 2)
    got = np.diag(smoothed_rank_gradient(jnp.asarray(x), 2.0))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(spectral_weight(jnp.float32([0, 2])), [1, np.exp(-1)])


def test_differences_are_quotients(x64):
    s, delta = jnp.asarray([3.0, 1.0, 1.0, 0.0]), jnp.asarray(0.8)
    weights, squares = spectral_weight((s / delta) ** 2), s**2
    gap = squares[:, None] - squares
    slopes = -jax.vmap(jax.grad(lambda q: spectral_weight(q / delta**2)))(squares)
    quotients = -(weights[:, None] - weights) / jnp.where(gap == 0, 1, gap)
    expected = jnp.where(gap == 0, slopes, quotients)
    got = spectral_weight_differences(s, delta)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
