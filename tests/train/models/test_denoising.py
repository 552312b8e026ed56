"""Tests of train/models/denoising.py: against SciPy, and loops in NumPy and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import ndimage, special

from train.models.denoising import OPERATIONS, DenoisingBlock

X = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)


def non_local(x: np.ndarray, weigh) -> np.ndarray:
    """One image, one place after another."""
    places = np.float64(x).reshape(-1, x.shape[-1])
    sums = [weigh(places @ place) @ places for place in places]
    return np.reshape(sums, x.shape)


EXPECTED = {
    "dot_product": [non_local(x, lambda scores: scores / 20) for x in X],
    "gaussian": [non_local(x, lambda s: special.softmax(s / np.sqrt(3))) for x in X],
    "mean": ndimage.uniform_filter(np.float64(X), (1, 3, 3, 1), mode="nearest"),
    "median": ndimage.median_filter(X, (1, 3, 3, 1), mode="nearest"),
}


def block_of(operation: str) -> DenoisingBlock:
    return DenoisingBlock(3, operation, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_is_the_formula(operation: str) -> None:
    found = OPERATIONS[operation](jnp.asarray(X))
    np.testing.assert_allclose(found, EXPECTED[operation], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_block_starts_as_the_identity_and_can_leave_it(operation: str) -> None:
    block = block_of(operation)
    np.testing.assert_array_equal(block(X), X)
    np.testing.assert_array_equal(block(X, train=True), X)

    graphdef, variables = nnx.split(block_of(operation))
    parameters, statistics = nnx.split_state(variables, nnx.Param, ...)

    def score(parameters, x):
        merged = nnx.merge(graphdef, parameters, statistics, copy=True)
        return jnp.square(merged(x, train=True)).sum()

    slopes, by_x = jax.grad(score, argnums=(0, 1))(parameters, jnp.asarray(X))
    np.testing.assert_allclose(by_x, 2 * X, rtol=1e-5)
    assert (slopes["norm"]["scale"][...] != 0).all()


def test_block_is_the_formula() -> None:
    block = block_of("mean")
    rng = np.random.default_rng(1)
    scale, shift, centre = rng.normal(size=(3, 3)).astype(np.float32)
    spread = rng.uniform(0.5, 1.5, 3).astype(np.float32)
    norm = block.norm
    for variable, value in (
        (norm.scale, scale),
        (norm.bias, shift),
        (norm.mean, centre),
        (norm.var, spread),
    ):
        variable[...] = jnp.asarray(value)
    kernel = np.asarray(block.convolution.kernel[...], np.float64)[0, 0]
    y = (EXPECTED["mean"] @ kernel - centre) / np.sqrt(spread + 1e-5) * scale + shift
    np.testing.assert_allclose(block(X), X + y, rtol=1e-4, atol=1e-4)
