"""Feature distillation against SciPy's DCT, block by block."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import transform_contract

from splic_jax.transforms.coding.feature_distillation import (
    FeatureDistillationConfig,
    distil_features,
    distil_one,
)


def by_blocks(image):
    """With the steps of the released code, in float64; the edge repeated."""
    steps = np.full((8, 8), 30.0)
    steps[:4, :4] = 25
    height, width, channels = image.shape
    padding = ((0, -height % 8), (0, -width % 8), (0, 0))
    levels = np.pad(image.astype(float) * 255, padding, "edge")
    result = np.zeros_like(levels)
    for i in range(0, levels.shape[0], 8):
        for j in range(0, levels.shape[1], 8):
            for c in range(channels):
                block = (slice(i, i + 8), slice(j, j + 8), c)
                ratio = scipy.fft.dctn(levels[block], norm="ortho") / steps
                result[block] = scipy.fft.idctn(np.round(ratio) * steps, norm="ortho")
    return np.clip(result[:height, :width] / 255, 0, 1)


@pytest.mark.parametrize("shape", [(32, 32, 3), (13, 10, 1)], ids=str)
def test_is_the_quantisation_of_the_released_code(shape):
    image = transform_contract.photograph(shape)
    done = distil_features(image, transform_contract.KEY, FeatureDistillationConfig())
    np.testing.assert_allclose(done, by_blocks(image), rtol=0, atol=1e-5)
    assert np.abs(done - image).max() > 0.02


def test_removes_a_small_perturbation_of_high_frequency():
    image = np.full((8, 8, 3), 0.5, np.float32)
    checkers = (np.indices((8, 8)).sum(0) % 2 * 2 - 1)[..., None].astype(np.float32)
    config = FeatureDistillationConfig()
    clean = distil_features(image, transform_contract.KEY, config)
    attacked = distil_features(image + checkers / 255, transform_contract.KEY, config)
    np.testing.assert_allclose(attacked, clean, rtol=0, atol=1e-6)


def test_contract():
    # The mean of a block moves by half a step of 25, of 8 times the mean, at most.
    limit = 25 / 2 / 8 / 255
    config = FeatureDistillationConfig()
    transform_contract.check(distil_features, distil_one, config, flat=limit)


def test_derivative(x64):
    image = jnp.asarray(transform_contract.photograph((9, 5, 3)), float)
    config = FeatureDistillationConfig(rounding="differentiable")
    transform_contract.check_derivative(
        distil_one, image, transform_contract.KEY, config
    )


@pytest.mark.parametrize(
    "name, value",
    [("step", 0.0), ("low_step", -1.0), ("low_frequencies", 9)],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        FeatureDistillationConfig(**{name: value})
