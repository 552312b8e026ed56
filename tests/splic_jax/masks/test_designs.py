import dataclasses
import functools

import jax
import numpy as np
import pytest
from scipy import stats

from splic_jax import SPLICConfig, purify, sample_mask
from splic_jax.masks.designs import BLOCK, DESIGNS, blocks

UGLY = [(1, 1), (1, 7)]


@functools.cache
def drawn_by(design, shape, keep_probability):
    draw = lambda key: DESIGNS[design](key, shape, keep_probability)
    return jax.jit(jax.vmap(draw))


def masks(design, shape, keep_probability, count=64, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(drawn_by(design, shape, keep_probability)(keys))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("shape", UGLY)
def test_is_a_mask_with_an_anchor(design, shape):
    drawn = masks(design, shape, 0.5)
    assert drawn.shape == (64, *shape) and drawn.dtype == bool
    assert drawn.any(axis=(1, 2)).all()


@pytest.mark.parametrize("design", ["exact", "blue_noise", "blocks"])
def test_extreme_probabilities(design):
    assert masks(design, (5, 7), 1.0).all()
    fewest = masks(design, (5, 7), 1e-6).sum(axis=(1, 2))
    if design == "blocks":  # 4 x 4 pixels, at the border less
        assert set(fewest) <= {16, 12, 4, 3}
    else:
        assert (fewest == 1).all()


@pytest.mark.parametrize("design", ["exact", "blue_noise"])
@pytest.mark.parametrize("keep_probability", [0.05, 0.9])
def test_counts_are_exact(design, keep_probability):
    counts = masks(design, (12, 10), keep_probability).sum(axis=(1, 2))
    assert (counts == round(keep_probability * 120)).all()


@pytest.mark.parametrize("design", DESIGNS)
def test_every_pixel_is_as_likely(design):
    drawn = masks(design, (8, 9), 0.5, count=2000)
    for y, x in np.ndindex(2, 2):
        chosen = int(drawn[:, 4 * y + 1, 4 * x + 2].sum())
        assert stats.binomtest(chosen, 2000, 0.5).pvalue > 1e-4


def test_exact_draws_every_set_equally_often():
    drawn = masks("exact", (2, 3), 0.34, count=3000).reshape(-1, 6)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 15  # 6 choose 2
    assert stats.chisquare(counts).pvalue > 1e-4


def test_checkerboard_alternates_in_both_phases():
    drawn = masks("checkerboard", (6, 5), 0.5)
    assert (drawn[:, 1:] != drawn[:, :-1]).all()
    assert (drawn[:, :, 1:] != drawn[:, :, :-1]).all()
    assert 10 < drawn[:, 0, 0].sum() < 54
    with pytest.raises(ValueError, match="keep_probability must be 0.5"):
        masks("checkerboard", (6, 5), 0.4)


def test_blocks_are_of_one_kind():
    drawn = masks("blocks", (39, 33), 0.4)
    for y in range(0, 39, BLOCK):
        for x in range(0, 33, BLOCK):
            block = drawn[:, y : y + BLOCK, x : x + BLOCK]
            assert (block == block[:, :1, :1]).all()
    corners = drawn[:, ::BLOCK, ::BLOCK]
    assert stats.binomtest(int(corners.sum()), corners.size, 0.4).pvalue > 1e-4
    whole = np.asarray(blocks(jax.random.key(0), (5, 7), 0.3, block=8))
    assert whole.all()  # one block, which has to be an anchor


@pytest.mark.parametrize("keep_probability", [0.1, 0.5])
def test_blue_noise_has_little_at_low_frequencies(keep_probability):
    drawn = masks("blue_noise", (32, 32), keep_probability).astype(float)
    power = np.abs(np.fft.fft2(drawn - drawn.mean(axis=(1, 2), keepdims=True))) ** 2
    white = 32 * 32 * keep_probability * (1 - keep_probability)
    spectrum = power.mean(axis=0) / white
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    low = (frequency > 0) & (frequency < 0.1)
    assert spectrum[low].mean() < 0.3
    assert spectrum[frequency > 0.3].mean() > 1
    exact = masks("exact", (32, 32), keep_probability).astype(float)
    power = np.abs(np.fft.fft2(exact - exact.mean(axis=(1, 2), keepdims=True))) ** 2
    assert power.mean(axis=0)[low].mean() / white > 0.8


@pytest.mark.parametrize("design", DESIGNS)
def test_alone_is_as_in_a_batch(design):
    keys = jax.random.split(jax.random.key(0), 2000)
    together = masks(design, (8, 9), 0.5, count=2000)
    draw = jax.jit(lambda key: DESIGNS[design](key, (8, 9), 0.5))
    for key, mask in zip(keys[:5], together[:5], strict=True):
        np.testing.assert_array_equal(draw(key), mask)
    assert (together[0] != together[1:]).any()


@pytest.mark.parametrize("design", ["exact", "blocks"])
def test_sample_mask_shares_it_or_draws_for_each_channel(design):
    key = jax.random.key(1)
    shared = np.asarray(sample_mask(key, (8, 9, 3), 0.5, "shared", design))
    one = np.asarray(DESIGNS[design](key, (8, 9), 0.5))
    np.testing.assert_array_equal(shared, np.repeat(one[..., None], 3, axis=-1))
    own = np.asarray(sample_mask(key, (8, 9, 3), 0.5, "independent", design))
    for channel, channel_key in enumerate(jax.random.split(key, 3)):
        expected = DESIGNS[design](channel_key, (8, 9), 0.5)
        np.testing.assert_array_equal(own[..., channel], expected)


@pytest.mark.parametrize("kind", ["shared", "independent"])
def test_the_default_is_as_it_was(kind):
    key, shape = jax.random.key(5), (9, 8, 3)
    drawn = (9, 8, 1 if kind == "shared" else 3)
    uniform = np.asarray(jax.random.uniform(key, drawn))
    expected = np.broadcast_to(uniform < 0.4, shape)
    np.testing.assert_array_equal(sample_mask(key, shape, 0.4, kind), expected)


def test_purify_depends_on_the_anchors_of_the_design_alone():
    design = "blue_noise"
    config = SPLICConfig(max_steps=7, tolerance=0.0, mask_design=design)
    key = jax.random.key(2)
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)
    others = images.copy()
    for i, image in enumerate(others):
        image_key = jax.random.fold_in(key, i)
        mask = sample_mask(image_key, image.shape, 0.5, config.mask, design)
        mask = np.asarray(mask)
        image[~mask] = 1 - image[~mask]
    got = np.asarray(purify(images, key, config))
    np.testing.assert_array_equal(purify(others, key, config), got)
    np.testing.assert_array_equal(
        purify(images[1:2], key, config, first_index=1), got[1:2]
    )
    np.testing.assert_array_equal(np.isfinite(got), True)


def test_config_refuses():
    config = object.__new__(SPLICConfig)  # past the type checker of the tests
    for field in dataclasses.fields(SPLICConfig):
        object.__setattr__(config, field.name, field.default)
    object.__setattr__(config, "mask_design", "stripes")
    with pytest.raises(ValueError, match="mask_design must be 'iid' or 'exact'"):
        config.__post_init__()
    with pytest.raises(ValueError, match="keep_probability must be 0.5"):
        SPLICConfig(mask_design="checkerboard", keep_probability=0.3)
