import dataclasses

import jax
import numpy as np
import pytest
from scipy import fft

from splic_jax.transforms.random.diversification import (
    SUBBANDS,
    DiversificationConfig,
    diversify,
    in_subband,
)

KEY = jax.random.key(0)


def pictures(shape, seed=0):
    """Mid-range, so that nothing is clipped."""
    values = np.random.default_rng(seed).normal(0.5, 0.02, shape)
    return values.astype(np.float32)


def coefficients(images):
    return fft.dctn(np.asarray(images, np.float64), axes=(-3, -2), norm="ortho")


@pytest.mark.parametrize(
    "subband, operation", [(s, "sign") for s in SUBBANDS] + [("all", "permute")]
)
def test_scrambles_its_subband_and_nothing_else(subband, operation):
    images = pictures((2, 8, 6, 3))
    config = DiversificationConfig(5, subband, operation)
    before, after = coefficients(images), coefficients(diversify(images, KEY, config))
    rows, columns = {
        "horizontal": (slice(4, 8), slice(0, 3)),
        "vertical": (slice(0, 4), slice(3, 6)),
        "diagonal": (slice(4, 8), slice(3, 6)),
        "all": (slice(0, 8), slice(0, 6)),
    }[subband]
    inside = np.zeros((8, 6), bool)
    inside[rows, columns] = True
    if subband == "all":
        inside[:4, :3] = False
    np.testing.assert_array_equal(in_subband((8, 6), subband), inside)
    np.testing.assert_allclose(after[:, ~inside], before[:, ~inside], atol=2e-6)
    was, now = before[:, inside], after[:, inside]
    if operation == "sign":
        np.testing.assert_allclose(np.abs(now), np.abs(was), atol=2e-6)
        turned = np.sign(now) != np.sign(was)
        assert (turned == turned[0, :, :1]).all()  # for all images and channels
        assert 0 < turned[0, :, 0].sum() < inside.sum()
    else:
        np.testing.assert_allclose(
            np.sort(now, axis=1), np.sort(was, axis=1), atol=2e-6
        )
        assert (np.abs(now - was) > 1e-4).mean() > 0.5
        places = np.abs(now[:, None] - was[:, :, None]).argmin(axis=1)
        assert (places == places[:1, :, :1]).all()


def test_depends_on_the_secret_and_not_on_the_key():
    images = pictures((2, 8, 6, 3))
    of = lambda secret, key: np.asarray(
        diversify(images, jax.random.key(key), DiversificationConfig(secret, "all"))
    )
    np.testing.assert_array_equal(of(1, 0), of(1, 7))
    assert (of(1, 0) != of(2, 0)).any()


def test_signs_turned_twice_are_the_image():
    images = pictures((2, 7, 5, 3))
    config = DiversificationConfig(9, "all")
    twice = diversify(diversify(images, KEY, config), KEY, config)
    np.testing.assert_allclose(twice, images, atol=1e-6)


@pytest.mark.parametrize(
    "shape, operation",
    [((1, 9, 3), "sign"), ((9, 1, 1), "permute"), ((5, 7, 1), "permute")],
)
def test_ugly_images(shape, operation):
    config = DiversificationConfig(2, "all", operation)
    for value in (0.0, 0.3, 1.0):
        flat = np.full(shape, value, np.float32)
        np.testing.assert_allclose(diversify(flat, KEY, config), flat, atol=1e-6)
    noise = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    got = diversify(noise, KEY, config)
    assert got.dtype == np.uint8 and got.shape == shape
    floats = np.asarray(diversify(noise / np.float32(255), KEY, config))
    assert np.isfinite(floats).all() and floats.min() >= 0 and floats.max() <= 1


def test_alone_is_as_in_a_batch():
    images = pictures((5, 8, 8, 3))
    config = DiversificationConfig()
    together = np.asarray(diversify(images, KEY, config))
    np.testing.assert_array_equal(diversify(images[3], KEY, config), together[3])


def test_gradient_is_the_inverse():
    """It is orthogonal, so the gradient of x'y is the transform undone on y."""
    images, other = pictures((1, 6, 6, 1)), pictures((1, 6, 6, 1), seed=1)
    config = DiversificationConfig(3, "all")
    dot = lambda x: (diversify(x, KEY, config) * other).sum()
    # Signs undo themselves.
    np.testing.assert_allclose(
        jax.grad(dot)(images), diversify(other, KEY, config), atol=1e-6
    )


@pytest.mark.parametrize(
    "field, value", [("secret", -1), ("subband", "low"), ("operation", "turn")]
)
def test_refuses(field, value):
    config = object.__new__(DiversificationConfig)  # past the type checker
    for name, default in dataclasses.asdict(DiversificationConfig()).items():
        object.__setattr__(config, name, value if name == field else default)
    with pytest.raises(ValueError, match=f"^{field} must be "):
        config.__post_init__()
