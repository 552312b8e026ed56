import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from splic_jax import SPLICConfig, complete_alternating, purify, sample_mask
from splic_jax.layout import batches

SHORT = SPLICConfig(max_steps=14, tolerance=0.0)
KEY = jax.random.key(7)


def pictures(n=7, h=12, w=10, c=3, seed=0):
    """Shaded discs on shaded grounds, float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w] / max(h, w)
    images = np.empty((n, h, w, c), np.float32)
    for image in images:
        cy, cx, radius = rng.uniform(0.2, 0.8, 3) * [1, 1, 0.6]
        inside = ((y - cy) ** 2 + (x - cx) ** 2 < radius**2)[..., None]
        shade = (rng.uniform(-0.3, 0.3) * y + rng.uniform(-0.3, 0.3) * x)[..., None]
        colours = rng.uniform(0.3, 0.7, (2, c))
        image[:] = np.where(inside, colours[0], colours[1]) + shade
    return np.clip(images + rng.normal(0, 0.02, images.shape), 0, 1).astype(np.float32)


def test_is_the_completion_of_each_channel():
    images = pictures(2)
    config = dataclasses.replace(SHORT, channels="separate", mask="shared")
    got = np.asarray(purify(images, KEY, config))
    for i, image in enumerate(images):
        mask = sample_mask(jax.random.fold_in(KEY, i), image.shape)
        for c in range(3):
            expected = complete_alternating(image[..., c], mask[..., c], config)
            np.testing.assert_allclose(
                got[i, ..., c], np.clip(expected, 0, 1), atol=1e-5
            )


def test_concatenated_is_the_completion_of_one_wide_matrix():
    images = pictures(1)
    config = SPLICConfig(
        max_steps=14, tolerance=0.0, channels="concatenated", mask="independent"
    )
    got = np.asarray(purify(images, KEY, config))[0]
    mask = sample_mask(jax.random.fold_in(KEY, 0), (12, 10, 3), 0.5, "independent")
    wide = lambda x: jnp.concatenate([x[..., c] for c in range(3)], axis=1)
    expected = complete_alternating(wide(images[0]), wide(mask), config, blocks=3)
    expected = np.stack(np.split(np.clip(expected, 0, 1), 3, axis=1), axis=-1)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [SPLICConfig(tolerance=4e-3), pytest.param(SHORT, marks=pytest.mark.slow)],
)
def test_does_not_depend_on_the_batch(optimized, config):
    """An image alone, in a batch of 7, in one of 20, in other chunks: the same bits."""
    images = pictures(20)
    all_of_them = np.asarray(purify(images, KEY, config))
    for start, size in ((0, 1), (3, 1), (2, 7)):
        part = images[start : start + size]
        got = np.asarray(purify(part, KEY, config, first_index=start))
        assert (got == all_of_them[start : start + size]).all()
    alone = np.asarray(purify(images[5], KEY, config, first_index=5))
    assert (alone == all_of_them[5]).all()
    for chunk in (3, 32):
        got = np.asarray(purify(images, KEY, config, chunk_size=chunk))
        assert (got == all_of_them).all()
    others = images.copy()
    others[1:] = 0.5
    assert (np.asarray(purify(others, KEY, config))[0] == all_of_them[0]).all()


@pytest.mark.parametrize(
    ("shape", "count", "size"),
    # One after another, three images at a time; then two chunks of the fast solver.
    [
        ((12, 10, 3), 7, 3),
        pytest.param((16, 16, 1), 35, 18, marks=pytest.mark.slow),
    ],
)
def test_does_not_depend_on_the_pieces(
    optimized, monkeypatch, tmp_path, shape, count, size
):
    """Images in several pieces, the last one uneven, from wherever they lie."""
    monkeypatch.setattr(batches, "_PIECE_VALUES", 3 * 360)
    images = np.round(pictures(count, *shape) * 255).astype(np.uint8)
    expected = [
        purify(images[start : start + size], KEY, SHORT, first_index=start)
        for start in range(0, count, size)
    ]
    expected = np.concatenate(expected)
    stored = np.memmap(tmp_path / "images", np.uint8, "w+", shape=images.shape)
    stored[:] = images
    for given in (images, jnp.asarray(images), stored):
        got = purify(given, KEY, SHORT)
        assert isinstance(got, jax.Array)
        assert (np.asarray(got) == expected).all()
    backwards = np.arange(count)[::-1]
    got = purify(images[::-1], KEY, SHORT, indices=backwards)
    assert (np.asarray(got)[::-1] == expected).all()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images():
    """Beyond the images and the result, by the process's peak of memory."""
    code = """
import resource, sys
import jax
import numpy as np
from splic_jax import SPLICConfig, purify
from splic_jax.transforms import BitDepthConfig, transform

def peak():
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

key = jax.random.key(0)
config = SPLICConfig(rank=2, max_steps=1, inner_steps=1, alternate=False)
for run in (
    lambda images: transform(images, key, BitDepthConfig()),
    lambda images: purify(images, key, config),
):
    run(np.full((2000, 16, 16, 3), 100, np.uint8)).block_until_ready()
    before = peak()
    images = np.full((40_000, 16, 16, 3), 100, np.uint8)
    result = run(images).block_until_ready()
    print((peak() - before - images.nbytes - result.nbytes) / images.nbytes)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    # In float32 the images are 4 times as large.
    assert all(float(share) < 3 for share in run.stdout.split()), run.stdout


def test_does_not_depend_on_the_number_of_devices():
    code = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from splic_jax import SPLICConfig, purify
from splic_jax.layout import batches
images = np.random.default_rng(0).uniform(size=(9, 6, 5, 1)).astype(np.float32)
config, key = SPLICConfig(max_steps=7, tolerance=0.0), jax.random.key(0)
assert len(jax.devices()) == 8
one = np.asarray(purify(images, key, config))
eight = np.asarray(purify(images, key, config, devices=jax.devices()))
alone = np.asarray(purify(images[8], key, config, first_index=8, devices=jax.devices()))
batches._PIECE_VALUES = 2 * 30
two = np.asarray(purify(images, key, config, devices=jax.devices()[:2]))
print((one == eight).all(), (alone == one[8]).all(), np.ptp(one) > 0)
print((one == two).all())
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["True"] * 4


def test_follows_from_its_key():
    images = pictures(2)
    first = np.asarray(purify(images, KEY, SHORT))
    assert (first == np.asarray(purify(images, jax.random.key(7), SHORT))).all()
    assert (first != np.asarray(purify(images, jax.random.key(8), SHORT))).any()
    twins = np.stack([images[0], images[0]])
    purified = np.asarray(purify(twins, KEY, SHORT))
    assert (purified[0] != purified[1]).any(), "masks must differ between images"


def test_jit_equals_eager():
    images = pictures(3)
    jitted = jax.jit(functools.partial(purify, config=SHORT))
    np.testing.assert_allclose(
        jitted(images, KEY), purify(images, KEY, SHORT), atol=1e-5
    )


def test_purified_is_nearer_to_the_clean_image_than_noise_leaves_it():
    clean = pictures(4, 32, 32)
    noise = np.random.default_rng(1).choice([-1, 1], clean.shape) * 40 / 255
    noisy = np.clip(clean + noise, 0, 1).astype(np.float32)
    purified = purify(noisy, KEY, SPLICConfig(rank=4, tv_weight=0.2))
    # 3 dB are half of the squared error.
    before, after = (
        np.mean((np.asarray(x) - clean) ** 2, axis=(1, 2, 3)) for x in (noisy, purified)
    )
    assert (after < before / 10**0.3).all(), (before, after)


def test_uint8_comes_back_as_uint8():
    images = np.round(pictures(3) * 255).astype(np.uint8)
    got = purify(images, KEY, SHORT)
    assert got.dtype == jnp.uint8
    expected = np.asarray(purify(images.astype(np.float32) / 255, KEY, SHORT))
    assert (np.asarray(got) == np.round(expected * 255)).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_floats_come_back_in_their_dtype(dtype):
    images = jnp.asarray(pictures(2), dtype)
    got = purify(images, KEY, SHORT)
    assert got.dtype == dtype
    expected = purify(images.astype(jnp.float32), KEY, SHORT)
    np.testing.assert_allclose(
        got.astype(jnp.float32), expected, atol=float(jnp.finfo(dtype).eps)
    )


def test_float64(x64):
    images = pictures(1).astype(np.float64)
    config = dataclasses.replace(SHORT, channels="separate", mask="shared")
    got = purify(images, KEY, config)
    assert got.dtype == jnp.float64
    mask = sample_mask(jax.random.fold_in(KEY, 0), images.shape[1:])
    expected = complete_alternating(images[0, ..., 0], mask[..., 0], config)
    np.testing.assert_allclose(got[0, ..., 0], np.clip(expected, 0, 1), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("channels", "alpha"), [(1, 0), (2, 1), (3, 0), (4, 1)])
def test_channels_and_alpha(channels, alpha, dtype):
    images = pictures(2, c=channels)
    if dtype == np.uint8:
        images = (images * 255).astype(np.uint8)
    got = np.asarray(purify(images, KEY, SHORT))
    assert got.shape == images.shape
    assert got.dtype == dtype
    colours = channels - alpha
    assert (got[..., colours:] == images[..., colours:]).all()
    opaque = np.asarray(purify(images[..., :colours], KEY, SHORT))
    assert (got[..., :colours] == opaque).all()
    assert (got[..., :colours] != images[..., :colours]).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (8, 1), (2, 3), (5, 40)])
def test_any_height_and_width(shape):
    images = pictures(2, *shape)
    got = np.asarray(purify(images, KEY, SHORT))
    assert got.shape == images.shape
    assert ((got >= 0) & (got <= 1)).all()


def test_no_images():
    assert purify(np.zeros((0, 8, 8, 3), np.float32), KEY).shape == (0, 8, 8, 3)


def test_black_comes_back_black_among_others():
    images = pictures(3)
    images[1] = 0
    images[2, ..., 1] = 0  # one black channel
    got = np.asarray(purify(images, KEY))
    assert (got[1] == 0).all()
    assert (got[0] > 0).any()
    got = np.asarray(purify(images, KEY, SPLICConfig(channels="separate")))
    assert (got[1] == 0).all()
    assert (got[2, ..., 1] == 0).all()


@pytest.mark.parametrize("value", [0.1, 0.5, 1.0])
def test_constant_comes_back(value):
    images = np.full((1, 32, 32, 3), value, np.float32)
    np.testing.assert_allclose(purify(images, KEY), value, atol=0.02)


def test_keep_probability_of_one_is_the_identity():
    images = pictures(2)
    config = SPLICConfig(keep_probability=1.0)
    assert (np.asarray(purify(images, KEY, config)) == images).all()


def test_gradient():
    image = pictures(1, 6, 6, 1)
    total = lambda x: purify(x, KEY, SHORT).sum()
    gradient = np.asarray(jax.grad(total)(jnp.asarray(image)))
    mask = np.asarray(sample_mask(jax.random.fold_in(KEY, 0), (6, 6, 1)))
    assert np.isfinite(gradient).all()
    assert (gradient[0][~mask] == 0).all()
    assert (gradient[0][mask] != 0).any()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8), np.float32), r"must be \[n, h, w, c\] or \[h, w, c\]"),
        (np.zeros((8, 8, 5), np.float32), "1 to 4 channels"),
        (np.zeros((0, 8, 3), np.float32), "must have pixels"),
        (np.zeros((8, 8, 3), np.int32), "floats in .* or uint8, got int32"),
        (np.full((1, 4, 4, 3), np.nan, np.float32), r"images\[0, 0, 0, 0\] is nan"),
    ],
)
def test_refuses_what_is_no_image(images, message):
    with pytest.raises(ValueError, match=message):
        purify(images, KEY)


@pytest.mark.parametrize("value", [-0.01, 1.01, 200.0, np.nan, np.inf])
def test_refuses_values_out_of_range_with_index_and_value(monkeypatch, value):
    images = pictures(2)
    images[1, 2, 3, 0] = value
    with pytest.raises(
        ValueError, match=rf"images\[1, 2, 3, 0\] is {images[1, 2, 3, 0]}"
    ):
        purify(images, KEY)
    monkeypatch.setattr(batches, "_PIECE_VALUES", 1)
    for given in (images, jnp.asarray(images)):
        with pytest.raises(ValueError, match=r"images\[1, 2, 3, 0\] is"):
            purify(given, KEY)
    run = checkify.checkify(jax.jit(functools.partial(purify, config=SHORT)))
    error, _ = run(images, KEY)
    assert "in [0, 1] and not NaN" in error.get()


def test_refuses_settings_that_do_not_fit():
    for channels, rank, size in (
        ("separate", 11, "12 x 10"),
        ("concatenated", 13, "12 x 30"),
    ):
        with pytest.raises(ValueError, match=rf"rank={rank} exceeds .* {size}"):
            purify(pictures(1), KEY, SPLICConfig(rank=rank, channels=channels))
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        purify(pictures(1), KEY, chunk_size=0)
