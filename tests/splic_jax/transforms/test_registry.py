"""The registry: what it says of each method, and how the methods are told apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax import SPLICConfig
from splic_jax.transforms import (
    METHODS,
    JPEGConfig,
    QuiltingConfig,
    ThermometerConfig,
    as_dict,
    fitted,
    from_dict,
    method_of,
    replace,
    transform,
)

KEY = jax.random.key(0)
IMAGES = np.asarray(
    jnp.clip(
        jnp.linspace(0.2, 0.8, 12)[:, None, None]
        + 0.1 * jax.random.normal(jax.random.key(1), (2, 12, 10, 3)),
        0,
        1,
    )
)
QUICKER = {
    "splic": {"max_steps": 14},
    "splic_no_tv": {"max_steps": 14},
    "srf_reference": {"max_rounds": 5},
    "soft_impute": {"max_steps": 10},
}


@pytest.fixture(scope="module")
def training_images():
    return jax.random.uniform(jax.random.key(2), (64, 12, 10, 3))


@pytest.mark.parametrize("name", METHODS)
def test_what_the_registry_says_of_a_method_is_so(name, training_images):
    method = METHODS[name]
    config = replace(method.config, QUICKER.get(name, {}))
    config = fitted(config, training_images, KEY)
    first = transform(IMAGES, KEY, config)
    other = transform(IMAGES, jax.random.key(5), config)
    assert first.shape == (*IMAGES.shape[:3], method.channels(config, 3))
    assert first.dtype == jnp.float32
    assert bool((first != other).any()) == method.random
    assert bool((first >= 0).all()) and bool((first <= 1).all())
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\]"):
        transform(IMAGES * jnp.nan, KEY, config)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_no_images_give_none(name, training_images):
    method = METHODS[name]
    config = fitted(method.config, training_images, KEY)
    apply = lambda images: transform(images, KEY, config)
    for function, dtype in ((apply, jnp.float32), (jax.jit(apply), jnp.uint8)):
        done = function(jnp.zeros((0, 12, 10, 3), dtype))
        assert done.shape == (0, 12, 10, method.channels(config, 3))
        assert done.dtype == dtype


@pytest.mark.parametrize(
    "name",
    # Of the parts of the barrage most have one.
    ["bilateral"]
    + [n for n, m in METHODS.items() if not m.differentiable and n != "barrage"],
)
def test_the_gradient_is_zero_where_the_registry_says_there_is_none(
    name, training_images
):
    method = METHODS[name]
    config = fitted(method.config, training_images, KEY)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(transform(x, KEY, config) ** 2)))(
        jnp.asarray(IMAGES[:1])
    )
    assert bool(jnp.isfinite(slope).all())
    assert bool((slope != 0).any()) == method.differentiable


@pytest.mark.parametrize("name", METHODS)
def test_settings_become_plain_values_and_back(name):
    config = METHODS[name].config
    values = as_dict(config)
    assert values["method"] == name
    assert all(
        isinstance(v, str | int | float | bool | tuple | None) for v in values.values()
    )
    assert from_dict(values) == config
    assert method_of(config).apply is METHODS[name].apply
    assert hash(config) == hash(METHODS[name].config)


def test_records_without_a_method_are_of_splic():
    assert from_dict({"rank": 3}) == SPLICConfig(rank=3)


def test_what_does_not_exist_is_named():
    with pytest.raises(ValueError, match="method must be one of splic, .*got 'gan'"):
        from_dict({"method": "gan"})
    with pytest.raises(ValueError, match="rank must be one of quality"):
        replace(JPEGConfig(), {"rank": 3})
    with pytest.raises(ValueError, match="settings of a transform, got 3"):
        method_of(3)
    with pytest.raises(ValueError, match="bank"):
        transform(IMAGES, KEY, QuiltingConfig())


def test_an_old_name_is_refused_with_the_new_one():
    with pytest.raises(ValueError, match="SPLIC without TV is 'splic_no_tv'"):
        from_dict({"method": "srf"})


def test_what_is_fitted_is_no_plain_value(training_images):
    config = fitted(QuiltingConfig(), training_images, KEY)
    assert "bank" not in as_dict(config)
    assert from_dict(as_dict(config)) == QuiltingConfig()


def test_channels_are_those_of_the_result():
    assert METHODS["thermometer"].channels(ThermometerConfig(levels=4), 3) == 12
