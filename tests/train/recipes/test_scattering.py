"""Tests of train/recipes/scattering.py: against an exact linear program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from scipy.spatial import distance

from train.recipes import Frozen
from train.recipes.scattering import Scattering, cosine_cost, transport_plan

RNG = np.random.default_rng(2)


def exact_cost(cost: np.ndarray) -> float:
    """The least transport cost between uniform weights, by linear programming."""
    rows, columns = cost.shape
    sums = np.concatenate(
        [
            np.kron(np.eye(rows), np.ones(columns)),
            np.kron(np.ones(rows), np.eye(columns)),
        ]
    )
    weights = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    return optimize.linprog(cost.ravel(), A_eq=sums, b_eq=weights).fun


@pytest.mark.parametrize("shape", [(6, 6), (5, 8)])
def test_plan_is_near_the_linear_program(shape: tuple[int, int]) -> None:
    cost = RNG.uniform(size=shape)
    plan = np.asarray(transport_plan(jnp.asarray(cost, jnp.float32), 0.005, 500))
    np.testing.assert_allclose(plan.sum(axis=0), 1 / shape[1], rtol=1e-5)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / shape[0], rtol=0.02)
    # The entropy costs at most r log(n m).
    excess = (plan * cost).sum() - exact_cost(cost)
    assert -1e-3 < excess < 0.005 * np.log(cost.size)


def test_plan_is_that_of_the_regularised_problem() -> None:
    # Its conditions of optimality: log T is -C / r plus a row and a column.
    cost = RNG.uniform(size=(7, 7))
    plan = transport_plan(jnp.asarray(cost, jnp.float32), 0.2, 200)
    rest = np.log(plan) + cost / 0.2
    rest -= rest.mean(axis=0) + rest.mean(axis=1, keepdims=True) - rest.mean()
    np.testing.assert_allclose(rest, 0, atol=1e-4)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 7, rtol=1e-5)


def test_slope_is_that_of_the_regularised_distance() -> None:
    cost = RNG.uniform(size=(4, 4))
    direction = RNG.normal(size=cost.shape)

    def distance_of(cost: np.ndarray) -> float:
        # Sinkhorn in float64, and the distance with its entropy.
        kernel, u = np.exp(-cost / 0.1), np.ones(4)
        for _ in range(2000):
            v = 0.25 / (kernel.T @ u)
            u = 0.25 / (kernel @ v)
        plan = u[:, None] * kernel * v
        return (plan * cost).sum() + 0.1 * (plan * np.log(plan)).sum()

    def sloped(cost):
        return (transport_plan(cost, 0.1, 300) * cost).sum()

    slope = jax.grad(sloped)(jnp.asarray(cost, jnp.float32))
    step = 1e-4
    ahead, behind = (distance_of(cost + s * direction) for s in (step, -step))
    np.testing.assert_allclose(
        (slope * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-3
    )


def test_cost_is_the_cosine_distance() -> None:
    u, v = RNG.normal(size=(2, 5, 9))
    np.testing.assert_allclose(
        cosine_cost(jnp.asarray(u), jnp.asarray(v)),
        distance.cdist(u, v, "cosine"),
        atol=1e-5,
    )
    assert (cosine_cost(jnp.zeros((2, 9)), jnp.asarray(v)) == 1).all()


def test_attack_moves_the_batch_away() -> None:
    kernel = jnp.asarray(RNG.normal(size=(48, 5)), jnp.float32)
    images = jnp.asarray(RNG.uniform(0.2, 0.8, size=(8, 4, 4, 3)), jnp.float32)

    def network(images, key):
        return images.reshape(len(images), -1) @ kernel

    def far(moved: jax.Array) -> float:
        key = jax.random.key(0)
        cost = cosine_cost(network(images, key), network(moved, key))
        return exact_cost(np.asarray(cost, np.float64))

    crafted = Scattering().craft(
        Frozen(network), images, jnp.zeros(8, int), jax.random.key(0)
    )
    noise = 8 / 255 * np.sign(RNG.normal(size=(20, *images.shape)))
    assert far(crafted) > max(far(images + one) for one in noise)
