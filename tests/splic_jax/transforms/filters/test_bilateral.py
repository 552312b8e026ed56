"""The bilateral filter against loops over its formula, and against OpenCV."""

import jax.numpy as jnp
import numpy as np
import pytest
import transform_contract

from splic_jax.transforms.filters.bilateral import (
    BilateralConfig,
    filter_bilateral,
    filter_one,
)


def by_loops(image, config):
    """The formula, pixel by pixel in float64."""
    height, width, _ = image.shape
    r = config.radius
    image = image.astype(np.float64)
    around = np.pad(image, ((r, r), (r, r), (0, 0)), "reflect")
    result = np.zeros_like(image)
    for i, j in np.ndindex(height, width):
        total, weights = 0.0, 0.0
        for dy, dx in np.ndindex(2 * r + 1, 2 * r + 1):
            squared = (dy - r) ** 2 + (dx - r) ** 2
            if squared > r**2:
                continue
            other = around[i + dy, j + dx]
            order = 2 if config.colour_distance == "euclidean" else 1
            colour = np.linalg.norm(other - image[i, j], order)
            weight = np.exp(
                -squared / (2 * config.space_std**2)
                - colour**2 / (2 * config.colour_std**2)
            )
            total, weights = total + weight * other, weights + weight
        result[i, j] = total / weights
    return result


@pytest.mark.parametrize(
    "shape, config",
    [
        ((32, 32, 3), BilateralConfig()),
        ((5, 7, 3), BilateralConfig(3, 1.0, 0.3, "manhattan")),
        ((1, 6, 1), BilateralConfig()),
    ],
    ids=str,
)
def test_is_its_formula(shape, config):
    image = transform_contract.photograph(shape)
    filtered = filter_bilateral(image, transform_contract.KEY, config)
    np.testing.assert_allclose(filtered, by_loops(image, config), rtol=0, atol=2e-6)
    assert np.abs(filtered - image).max() > 0.01


@pytest.mark.parametrize("channels", [1, 3])
def test_is_what_opencv_computes(channels):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV, of requirements-peers.txt")
    config = BilateralConfig(2, 1.3, 0.2, "manhattan")
    image = transform_contract.photograph((32, 32, channels))
    theirs = cv2.bilateralFilter(image, 5, 0.2, 1.3, borderType=cv2.BORDER_REFLECT_101)
    ours = filter_bilateral(image, transform_contract.KEY, config)
    # OpenCV interpolates the exponential in a table.
    np.testing.assert_allclose(ours, theirs.reshape(image.shape), rtol=0, atol=1e-4)


def test_keeps_a_step_and_smooths_noise():
    image = transform_contract.photograph((12, 12, 3)) * 0.1
    image[:, 6:] += 0.8
    filtered = filter_bilateral(
        image, transform_contract.KEY, BilateralConfig(2, 2.0, 0.1)
    )
    assert np.abs(filtered[:, 6] - filtered[:, 5]).min() > 0.7
    assert filtered[:, :6].std(0).max() < image[:, :6].std(0).max()


def test_contract():
    transform_contract.check(filter_bilateral, filter_one, BilateralConfig())


def test_derivative(x64):
    image = jnp.asarray(transform_contract.photograph((4, 5, 3)), float)
    transform_contract.check_derivative(
        filter_one, image, transform_contract.KEY, BilateralConfig()
    )


@pytest.mark.parametrize(
    "name, value", [("radius", 0), ("colour_std", 0.0), ("space_std", -1.0)]
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        BilateralConfig(**{name: value})
