"""The figures' numbers against NumPy and scikit-learn's own measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from splic_jax import SPLICConfig, purify
from splic_jax.transforms import BitDepthConfig
from train.reproductions import analysis

SHAPE = (3, 12, 16, 3)
IMAGES = jax.random.uniform(jax.random.key(0), SHAPE)


def test_singular_values_are_numpys():
    expected = np.linalg.svd(
        np.moveaxis(np.asarray(IMAGES, np.float64), -1, 1), compute_uv=False
    )
    np.testing.assert_allclose(
        analysis.singular_values(IMAGES), expected, rtol=1e-4, atol=1e-5
    )


def test_energy_by_rank_is_the_norm_of_the_projection():
    moved = 0.01 * jax.random.normal(jax.random.key(1), SHAPE)
    found = np.asarray(analysis.energy_by_rank(moved, IMAGES))
    for n in range(SHAPE[0]):
        kept, total = np.zeros(12), 0.0
        for c in range(SHAPE[3]):
            u, _, vt = np.linalg.svd(np.asarray(IMAGES[n, :, :, c], np.float64))
            d = np.asarray(moved[n, :, :, c], np.float64)
            total += np.sum(d**2)
            kept += [np.sum((u[:, :r].T @ d @ vt[:r].T) ** 2) for r in range(1, 13)]
        np.testing.assert_allclose(found[n], kept / total, rtol=1e-3)


def test_energy_of_the_image_itself_is_all_in_its_leading_directions():
    flat = jnp.full(SHAPE, 0.5)
    found = analysis.energy_by_rank(0.1 * flat, flat)
    np.testing.assert_allclose(found, 1, rtol=1e-5)
    assert np.isnan(analysis.energy_by_rank(0 * flat, flat)).all()


def test_sweep_changes_one_setting_and_keeps_the_key():
    key = jax.random.key(2)
    rows = list(
        analysis.sweep(IMAGES, IMAGES, key, SPLICConfig(max_steps=7), "rank", (1, 6))
    )
    assert [row.value for row in rows] == [1, 6]
    for row in rows:
        expected = purify(IMAGES, key, SPLICConfig(max_steps=7, rank=row.value))
        np.testing.assert_array_equal(row.images, expected)
    assert (rows[0].quality.psnr != rows[1].quality.psnr).all()


def test_sweep_takes_any_method_and_refuses_what_it_lacks():
    (row,) = analysis.sweep(
        IMAGES, IMAGES, jax.random.key(0), BitDepthConfig(), "bits", (1,)
    )
    assert set(np.unique(row.images)) == {0.0, 1.0}
    with pytest.raises(ValueError, match="rank must be one of bits"):
        next(
            analysis.sweep(
                IMAGES, IMAGES, jax.random.key(0), BitDepthConfig(), "rank", (1,)
            )
        )


@pytest.mark.parametrize(
    ("channels", "matrices"), [("separate", 3), ("concatenated", 1)]
)
def test_convergence_falls_and_ends_in_nan(channels, matrices):
    smooth = jnp.broadcast_to(jnp.linspace(0, 1, 16)[None, None, :, None], SHAPE)
    config = SPLICConfig(
        max_steps=70, tolerance=0.05, solver="exact", channels=channels
    )
    traces = np.asarray(analysis.convergence(smooth, jax.random.key(3), config))
    assert traces.shape == (3, matrices, 70)
    taken = np.isfinite(traces).sum(axis=-1)
    assert ((taken > 0) & (taken < 70) & (taken % config.inner_steps == 0)).all()
    last = np.take_along_axis(traces, taken[..., None] - 1, axis=-1)[..., 0]
    assert (last <= config.tolerance).all()
    assert (last < traces[..., 0]).all()


def test_tsne_keeps_neighbours_together_and_repeats():
    rng = np.random.default_rng(0)
    centres = np.repeat(10 * np.eye(3, 8), 15, axis=0)
    features = (centres + rng.normal(size=(45, 8))).astype(np.float32)
    found = analysis.tsne(features, perplexity=8.0)
    assert found.shape == (45, 2)
    assert trustworthiness(features, found, n_neighbors=5) > 0.8
    np.testing.assert_array_equal(found, analysis.tsne(features, perplexity=8.0))
