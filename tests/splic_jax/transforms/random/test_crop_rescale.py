"""Crop and rescale against OpenCV's bilinear resize, and by its draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transform_contract

from splic_jax.transforms.random.crop_rescale import (
    CropRescaleConfig,
    crop_and_rescale,
    crop_and_stretch,
    crop_one,
)


def by_numpy(crop, shape):
    """Bilinear at the centres of pixels, in float64, the edge repeated."""
    for axis, length in enumerate(shape[:2]):
        size = crop.shape[axis]
        at = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0, size - 1)
        along = lambda values, at=at: np.interp(at, np.arange(len(values)), values)
        crop = np.apply_along_axis(along, axis, crop.astype(np.float64))
    return crop


@pytest.mark.parametrize("share, corner", [(0.7, (0.0, 0.99)), (0.4, (0.5, 0.2))])
def test_crop_and_stretch(share, corner):
    image = transform_contract.photograph((32, 20, 3))
    size = np.round(np.array([32, 20]) * share).astype(int)
    top, left = np.floor(corner * (np.array([32, 20]) - size + 1)).astype(int)
    crop = image[top : top + size[0], left : left + size[1]]
    ours = jax.jit(crop_and_stretch)(jnp.asarray(image), share, jnp.asarray(corner))
    np.testing.assert_allclose(ours, by_numpy(crop, image.shape), rtol=0, atol=1e-5)
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV, of requirements-peers.txt")
    theirs = cv2.resize(crop, (20, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_every_place_and_size_is_drawn_and_none_outside():
    # Of an image that holds its own coordinates a crop shows where it was.
    y, x = np.mgrid[:10, :10] / 9
    image = np.stack([y, x, x], -1).astype(np.float32)
    config = CropRescaleConfig(0.5, 0.8)
    crops = np.asarray(
        crop_and_rescale(np.stack([image] * 300), transform_contract.KEY, config)
    )
    top, bottom = crops[:, 0, 0, 0] * 9, crops[:, -1, 0, 0] * 9
    left, right = crops[:, 0, 0, 1] * 9, crops[:, 0, -1, 1] * 9
    for start, end in ((top, bottom), (left, right)):
        sizes = np.round(end - start + 1).astype(int)
        np.testing.assert_allclose(sizes, end - start + 1, atol=1e-4)
        assert set(sizes) == {5, 6, 7, 8}
        assert set(np.round(start).astype(int)) == set(range(6))
        assert (np.round(start) + sizes <= 10).all()


def test_whole_image_is_itself():
    image = transform_contract.photograph((6, 9, 3))
    same = crop_and_rescale(image, transform_contract.KEY, CropRescaleConfig(1.0, 1.0))
    np.testing.assert_allclose(same, image, rtol=0, atol=1e-6)


def test_contract():
    transform_contract.check(crop_and_rescale, crop_one, CropRescaleConfig())


def test_derivative(x64):
    image = jnp.asarray(transform_contract.photograph((5, 6, 3)), float)
    transform_contract.check_derivative(
        crop_one, image, transform_contract.KEY, CropRescaleConfig()
    )


@pytest.mark.parametrize(
    "name, values",
    [("smallest", {"smallest": 0.0}), ("largest", {"smallest": 0.8, "largest": 0.6})],
)
def test_bad_settings_are_named(name, values):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        CropRescaleConfig(**values)
