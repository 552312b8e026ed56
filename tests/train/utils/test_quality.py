"""PSNR against the formula, and what SSIM must be."""

import jax
import jax.numpy as jnp
import numpy as np

from train.utils.quality import quality

IMAGES = jax.random.uniform(jax.random.key(0), (3, 12, 16, 3))


def test_quality_is_the_psnr_of_the_formula_and_ssim_one_for_equal_images():
    other = jnp.clip(IMAGES + 0.1, 0, 1)
    found = quality(other, IMAGES)
    error = np.mean((np.asarray(other, np.float64) - IMAGES) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(found.psnr, -10 * np.log10(error), rtol=1e-5)
    np.testing.assert_allclose(quality(IMAGES, IMAGES).ssim, 1, rtol=1e-5)
    assert (np.asarray(found.ssim) < 1).all()
    assert np.isnan(quality(IMAGES[:, :5], IMAGES[:, :5]).ssim).all()
