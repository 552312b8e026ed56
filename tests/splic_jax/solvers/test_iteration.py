"""The stopping loop: its result, and its derivative against that of a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax.solvers.iteration import iterate


def step(state, problem):
    """Newton's method for the square root of the problem's number."""
    number, flag = problem
    x = state["x"]
    new = jnp.where(flag, (x + number / x) / 2, x)
    return {"x": new, "change": jax.lax.stop_gradient(jnp.abs(new - x))}


def unfinished(state):
    return state["change"] > 1e-3


def root(number, most):
    start = {"x": number, "change": jnp.asarray(jnp.inf)}
    return iterate(step, unfinished, start, (number, jnp.asarray(True)), most)["x"]


def plain(number, steps):
    x = number
    for _ in range(steps):
        x = (x + number / x) / 2
    return x


@pytest.mark.parametrize(
    "number, most, steps", [(2.0, 50, 4), (2.0, 2, 2), (100.0, 50, 7)]
)
def test_stops_and_differentiates_the_steps_taken(x64, number, most, steps):
    number = jnp.asarray(number)
    assert root(number, most) == plain(number, steps)
    got = jax.jit(jax.grad(lambda n: root(n, most)))(number)
    expected = jax.grad(lambda n: plain(n, steps))(number)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_under_vmap_each_stops_by_itself(x64):
    numbers = jnp.asarray([2.0, 100.0])
    got = jax.vmap(lambda n: root(n, 50))(numbers)
    np.testing.assert_array_equal(got, [plain(numbers[0], 4), plain(numbers[1], 7)])
