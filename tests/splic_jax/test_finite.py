"""What is not finite is found out, in floats and in uint8, and named."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.experimental import checkify

from splic_jax import METHODS, SPLICConfig, purify, transform
from splic_jax.layout.batches import NotFiniteError
from splic_jax.transforms import BilateralConfig, SRFConfig, TVMinimisationConfig

KEY = jax.random.key(0)
# Differences of colours divided by a number whose square is 0 in float32.
BAD = BilateralConfig(colour_std=1e-30)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_names_the_images_that_are_not_finite(dtype):
    images = np.zeros((3, 4, 5, 3), dtype)
    with pytest.raises(NotFiniteError, match=r"images\[0\] is not finite") as error:
        transform(images, KEY, BAD, check_finite=True)
    assert error.value.images == [0, 1, 2]
    done = np.asarray(transform(images, KEY, BAD))
    assert not done.any() if dtype == np.uint8 else np.isnan(done).all()
    transform(images, KEY, BilateralConfig(), check_finite=True)


def test_checkify_hears_of_it():
    images = np.zeros((1, 4, 5, 3), np.uint8)
    run = lambda config: lambda images: transform(images, KEY, config)
    for config, bad in ((BAD, True), (BilateralConfig(), False)):
        error, _ = checkify.checkify(jax.jit(run(config)))(images)
        assert (error.get() is not None) == bad
        assert not bad or "a transformed image is not finite" in error.get()


def test_purify_checks_too():
    images = np.full((2, 4, 5, 3), 0.5, np.float32)
    config = SPLICConfig(max_steps=1)
    done = purify(images, KEY, config, check_finite=True)
    np.testing.assert_array_equal(done, purify(images, KEY, config))


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (SPLICConfig(), "tv_weight", 1.0),
        (SPLICConfig(), "step_size", 1e300),
        (SRFConfig(), "step_size", 2.5),
        (SRFConfig(), "start", 1e30),
        (BilateralConfig(), "colour_std", 1e-60),
        (TVMinimisationConfig(), "tv_weight", 1e39),
    ],
)
def test_refuses_what_cannot_be_stable_or_held(config, field, value):
    with pytest.raises(ValueError, match=f"^{field} must be "):
        dataclasses.replace(config, **{field: value})


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.fit is None])
def test_extreme_settings_are_refused_or_finite_or_found_out(name):
    config = METHODS[name].config
    images = np.random.default_rng(0).random((2, 5, 7, 3)).astype(np.float32)
    for field in dataclasses.fields(config):
        if not isinstance(getattr(config, field.name), float):
            continue
        for value in (1e-300, 1.3e-38, 1e-12, 1e12, 3e38, 1e300):
            try:
                extreme = dataclasses.replace(config, **{field.name: value})
                done = transform(images, KEY, extreme, check_finite=True)
            except ValueError:
                continue
            assert np.isfinite(done).all()
