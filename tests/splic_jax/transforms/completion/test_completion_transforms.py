"""What the transforms that complete an image from random pixels have in common."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax.transforms.completion.nuclear_norm import NuclearNormConfig, nuclear_norm
from splic_jax.transforms.completion.soft_impute import SoftImputeConfig, soft_impute
from splic_jax.transforms.completion.srf import SRFConfig, srf
from splic_jax.transforms.completion.tv_minimisation import (
    TVMinimisationConfig,
    tv_minimisation,
)
from splic_jax.transforms.completion.usvt import USVTConfig, usvt

TRANSFORMS = {
    "usvt": (usvt, USVTConfig),
    "soft_impute": (soft_impute, SoftImputeConfig),
    "nuclear_norm": (nuclear_norm, NuclearNormConfig),
    "tv_minimisation": (tv_minimisation, TVMinimisationConfig),
    "srf": (srf, SRFConfig),
}
KEY = jax.random.key(7)
# How far from the input a row may come back with all of its pixels kept, of 255.
AWAY = {
    "usvt": 0,
    "soft_impute": 0,
    "srf": 0,
    "nuclear_norm": 64,
    "tv_minimisation": 16,
}

each = pytest.mark.parametrize("name", TRANSFORMS)


def pictures():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 30).reshape(6, 5, 1) * [1, 0.8, 0.5]
    images = [ramp, np.zeros_like(ramp), np.full_like(ramp, 0.5), np.ones_like(ramp)]
    return np.asarray([*images, rng.uniform(size=ramp.shape)], np.float32)


@each
def test_image_alone_equals_in_a_batch_and_under_jit(name):
    transform, config = TRANSFORMS[name]
    images = pictures()
    batch = np.asarray(transform(images, KEY, config()))
    assert batch.shape == images.shape and batch.dtype == np.float32
    assert np.all((batch >= 0) & (batch <= 1))  # black, grey and white ones too
    jitted = jax.jit(lambda x, c, i: transform(x, KEY, c, first_index=i))
    alone = [jitted(image, config(), i) for i, image in enumerate(images)]
    np.testing.assert_array_equal(np.stack(alone), batch)
    # The mask is random, so another key gives another result.
    other = transform(images, jax.random.key(8), config())
    assert np.max(np.abs(other[4] - batch[4])) > 1e-3


@each
def test_one_row_of_one_channel_with_alpha_all_of_it_kept(name):
    transform, config = TRANSFORMS[name]
    row = np.random.default_rng(1).integers(0, 256, (1, 9, 2), np.uint8)
    out = np.asarray(transform(row, KEY, config(keep_probability=1.0)))
    assert out.dtype == np.uint8 and out.shape == (1, 9, 2)
    np.testing.assert_array_equal(out[..., 1], row[..., 1])
    away = np.max(np.abs(out[..., 0].astype(int) - row[..., 0]))
    assert away <= AWAY[name]


@each
def test_refuses_nan(name):
    transform, config = TRANSFORMS[name]
    broken = np.zeros((1, 9, 1), np.float32)
    broken[0, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"images\[0, 2, 0\] is nan"):
        transform(broken, KEY, config())


@pytest.mark.parametrize("name", ["soft_impute", "nuclear_norm"])
def test_gradient_of_a_flat_image_is_finite(name):
    """Where a derivative of singular vectors would divide by 0."""
    transform, config = TRANSFORMS[name]
    gradient_of = jax.jit(
        jax.grad(lambda x: jnp.sum(transform(x, KEY, config(max_steps=20)) ** 2))
    )
    for value in (0.0, 0.5):
        gradient = gradient_of(jnp.full((4, 4, 3), value))
        assert np.all(np.isfinite(gradient))


BAD = {
    "usvt": [("kept_share", 0.0), ("channels", "joined")],
    "soft_impute": [("shrinkage", 1.0), ("path", 0), ("tolerance", -1.0)],
    "nuclear_norm": [("weight", 0.0), ("max_steps", 1.5), ("mask", "same")],
    "tv_minimisation": [("tv_weight", -1.0), ("form", "l1"), ("steps", 0)],
    "srf": [("start", 0.0), ("delta_decay", 1.0), ("inner_steps", True)],
}


@pytest.mark.parametrize(
    "name, field, value",
    [(n, *bad) for n in BAD for bad in [*BAD[n], ("keep_probability", 0.0)]],
)
def test_refuses_bad_settings_by_name(name, field, value):
    kind = TRANSFORMS[name][1]
    config = object.__new__(kind)  # past the type checker of the tests
    for each, default in dataclasses.asdict(kind()).items():
        object.__setattr__(config, each, value if each == field else default)
    with pytest.raises(ValueError, match=f"^{field} must be "):
        config.__post_init__()
