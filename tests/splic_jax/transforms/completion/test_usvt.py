"""USVT against the steps of ME-Net in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax.masks.sampling import sample_mask
from splic_jax.transforms.completion.usvt import USVTConfig, usvt, usvt_one


def reference(image, mask, config):
    height, width, channels = image.shape
    pixels = image * 2 - 1
    if config.channels == "concatenated":
        tall = [np.concatenate(list(np.moveaxis(a, 2, 0)), 1) for a in (pixels, mask)]
        matrices, masks = [tall[0]], [tall[1]]
    else:
        matrices, masks = np.moveaxis(pixels, 2, 0), np.moveaxis(mask, 2, 0)
    done = []
    for matrix, kept in zip(matrices, masks, strict=True):
        u, s, vt = np.linalg.svd(matrix * kept, full_matrices=False)
        s[int(config.kept_share * height) :] = 0
        done.append(np.clip(u @ np.diag(s) @ vt / kept.mean(), -1, 1))
    if config.channels == "concatenated":
        done = np.split(done[0], channels, axis=1)
    return (np.stack(done, 2) + 1) / 2


@pytest.mark.parametrize(
    "shape, mask, channels",
    [
        ((10, 8, 3), "independent", "concatenated"),
        ((10, 8, 3), "shared", "separate"),
        ((6, 9, 1), "independent", "separate"),
    ],
)
def test_equals_numpy(x64, shape, mask, channels):
    image = np.random.default_rng(0).uniform(size=shape)
    config = USVTConfig(channels=channels, mask=mask, keep_probability=0.6)
    key = jax.random.key(3)
    kept = np.asarray(sample_mask(key, shape, 0.6, mask))
    got = jax.jit(usvt_one)(jnp.asarray(image), key, config)
    np.testing.assert_allclose(got, reference(image, kept, config), atol=1e-12)


def test_all_kept_and_all_values_give_the_image_back(x64):
    image = jnp.asarray(np.random.default_rng(1).uniform(size=(5, 6, 3)))
    config = USVTConfig(keep_probability=1.0, kept_share=1.0)
    np.testing.assert_allclose(usvt(image, jax.random.key(0), config), image, atol=1e-7)


def test_gradient_equals_finite_differences(x64):
    rng = np.random.default_rng(2)
    image, weights = rng.uniform(0.4, 0.6, (6, 5, 3)), rng.normal(size=(6, 5, 3))
    config, key = USVTConfig(), jax.random.key(1)
    total = jax.jit(lambda x: jnp.sum(weights * usvt_one(x, key, config)))
    gradient, d = jax.jit(jax.grad(total))(image), rng.normal(size=image.shape)
    numeric = (total(image + 1e-6 * d) - total(image - 1e-6 * d)) / 2e-6
    np.testing.assert_allclose(np.sum(gradient * d), numeric, rtol=1e-5)
