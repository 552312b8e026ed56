import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attacks import bpda
from splic_jax.transforms.coding.thermometer import (
    ThermometerConfig,
    channels,
    soft_thermometer,
    thermometer,
)

KEY = jax.random.key(0)


def reference(images, levels):
    """A loop over values; levels of a channel side by side."""
    codes = np.zeros((*images.shape, levels))
    for where in np.ndindex(images.shape):
        for j in range(levels):
            codes[(*where, j)] = float(images[where]) >= np.float32(j / levels)
    return codes.reshape(*images.shape[:-1], -1)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 6, 1), (1, 1, 1, 3)])
@pytest.mark.parametrize("levels", [2, 10, 16])
def test_is_the_encoding(shape, levels):
    images = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    images.flat[:3] = 0, 1, 0.5
    config = ThermometerConfig(levels)
    got = thermometer(images, KEY, config)
    np.testing.assert_array_equal(got, reference(images, levels))
    assert got.dtype == jnp.float32
    assert got.shape[-1] == channels(config, shape[-1]) == shape[-1] * levels


def test_order_and_range():
    image = jnp.array([[[0.0, 0.5, 1.0]]])
    got = thermometer(image, KEY, ThermometerConfig(levels=4))[0, 0]
    np.testing.assert_array_equal(got, [1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1])


def test_uint8_and_alpha():
    image = np.array([[[0, 128, 255, 77]]], np.uint8)
    config = ThermometerConfig(levels=4)
    got = thermometer(image, KEY, config)
    assert got.dtype == jnp.uint8 and got.shape[-1] == channels(config, 4)
    codes = 255 * np.array([1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(got[0, 0], [*codes, 77])


def test_alone_is_as_in_a_batch():
    images = np.random.default_rng(1).uniform(size=(5, 5, 7, 3)).astype(np.float32)
    together = np.asarray(thermometer(images, KEY, ThermometerConfig()))
    alone = np.asarray(thermometer(images[3], KEY, ThermometerConfig()))
    np.testing.assert_array_equal(alone, together[3])


def test_soft_is_the_formula_and_near_the_hard_one():
    config = ThermometerConfig(levels=10)
    images = np.random.default_rng(2).uniform(size=(2, 4, 3, 3)).astype(np.float32)
    soft = np.asarray(soft_thermometer(images, config))
    j = np.arange(10)
    expected = np.clip((images[..., None] * 10.0 - j + 1) / 2, 0, 1)
    expected[..., 0] = 1
    np.testing.assert_allclose(soft, expected.reshape(soft.shape), atol=2e-6)
    hard = np.asarray(thermometer(images, KEY, config))
    assert np.abs(soft - hard).max() <= 0.5 + 1e-6
    assert soft.dtype == hard.dtype


def test_soft_has_a_slope_where_a_value_would_change():
    config = ThermometerConfig(levels=4)
    slope = jax.jacobian(lambda x: soft_thermometer(x[None, None, None], config))
    for x, active in ((0.1, [1]), (0.3, [1, 2]), (0.6, [2, 3]), (0.9, [3])):
        found = np.asarray(slope(jnp.array([x]))).ravel()
        np.testing.assert_array_equal(np.flatnonzero(found), active)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_soft_has_the_shape_of_hard(count):
    config = ThermometerConfig(levels=3)
    images = jnp.full((2, 3, 4, count), 0.4)
    soft, hard = soft_thermometer(images, config), thermometer(images, KEY, config)
    assert soft.shape == hard.shape == (2, 3, 4, channels(config, count))


def test_adaptive_attack_goes_through():
    config = ThermometerConfig(levels=16)
    weights = np.random.default_rng(3).normal(size=(4 * 4 * 16, 2)).astype(np.float32)
    images = np.random.default_rng(4).uniform(size=(8, 4, 4, 1)).astype(np.float32)

    def classify(encode):
        return lambda images, key: (
            encode(images, key).reshape(len(images), -1) @ weights
        )

    hard = lambda images, key: thermometer(images, key, config)
    soft = bpda(hard, backward=lambda images: soft_thermometer(images, config))
    margin = lambda encode: lambda x: jnp.diff(classify(encode)(x, KEY))[:, 0]
    slope = lambda encode: jax.grad(lambda x: margin(encode)(x).sum())(images)
    assert not np.asarray(slope(hard)).any()
    before = np.asarray(margin(soft)(images))
    np.testing.assert_array_equal(before, margin(hard)(images))
    up = np.clip(images + 0.1 * np.sign(slope(soft)), 0, 1)
    assert (np.asarray(margin(hard)(up)) > before + 0.5).all()


def test_refuses_one_level():
    with pytest.raises(ValueError, match="levels must be an integer of at least 2"):
        ThermometerConfig(levels=1)
