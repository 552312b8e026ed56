"""Tests of train/models/convolution.py against the gradients that JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from train import models
from train.models import convolution

NUMBERS = ("NHWC", "HWIO", "NHWC")


def draw(*shape: int, dtype: object = jnp.float32) -> jax.Array:
    rng = np.random.default_rng(sum(shape))
    return jnp.asarray(rng.normal(size=shape), dtype)


@pytest.mark.parametrize(
    "count, height, width, channels, outputs",
    [(1, 16, 16, 8, 4), (6, 16, 18, 8, 5), (8, 20, 17, 9, 16), (5, 32, 32, 16, 16)],
)
def test_weight_gradient(count, height, width, channels, outputs) -> None:
    x, dy = draw(count, height, width, channels), draw(count, height, width, outputs)

    def convolve(kernel):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS
        )

    (expected,) = jax.vjp(convolve, jnp.zeros((3, 3, channels, outputs)))[1](dy)
    got = jax.jit(convolution.weight_gradient)(x, dy)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())

    half = convolution.weight_gradient(x.astype(jnp.bfloat16), dy.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("size, stride", [(3, 1), (3, 2), (1, 2)])
@pytest.mark.parametrize("side", [8, 16])
def test_convolve_is_lax(size: int, stride: int, side: int) -> None:
    x, kernel = draw(4, side, side, 8), draw(size, size, 8, 6)
    padding = ((size // 2, size // 2),) * 2

    def energy(convolve, x, kernel):
        y = convolve(x, kernel, (stride, stride), padding, dimension_numbers=NUMBERS)
        return jnp.sum(jnp.tanh(y) ** 2)

    for differentiate in (jax.value_and_grad, jax.jacrev):
        run = differentiate(energy, argnums=(1, 2))
        for got, expected in zip(
            jax.tree.leaves(run(convolution.convolve, x, kernel)),
            jax.tree.leaves(run(lax.conv_general_dilated, x, kernel)),
            strict=True,
        ):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(got, expected, atol=1e-5 * scale)


def test_prepared_network_has_the_same_gradient() -> None:
    graphdef, parameters, rest = nnx.split(models.create("small", 3, 0), nnx.Param, ...)
    images = draw(4, 32, 32, 3)

    def loss(parameters, prepared):
        model = nnx.merge(graphdef, parameters, rest, copy=True)
        if prepared:
            models.prepare_training(model, "float32")
        return jnp.sum(model(images, train=True) ** 2)

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    for got, expected in zip(
        *(jax.tree.leaves(gradient(parameters, p)) for p in (True, False)), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())
