"""Each part of the barrage against NumPy and SciPy, and which of them are applied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import transform_contract

from splic_jax.transforms.coding.jpeg import JPEGConfig, compress
from splic_jax.transforms.random.barrage import (
    LUMA,
    PARTS,
    BarrageConfig,
    bombard,
    bombard_one,
)

IMAGE = transform_contract.photograph((32, 24, 3))


def part(name, *parameters, image=IMAGE, key=transform_contract.KEY):
    apply = jax.jit(PARTS[name].apply)
    return np.asarray(apply(jnp.asarray(image), key, *map(jnp.float32, parameters)))


def close(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_reduce_colours():
    close(part("reduce_colours", 12.2), np.round(IMAGE * 12) / 12)


def test_compress_as_jpeg():
    theirs = compress(IMAGE, transform_contract.KEY, JPEGConfig(60))
    close(np.clip(part("compress_as_jpeg", 60.3), 0, 1), theirs)


def test_swirl():
    y, x = np.mgrid[:32, :24].astype(float)
    y, x = y - 0.25 * 31, x - 0.5 * 23
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    angle = angle + 1.5 * np.exp(-radius / (0.4 * 32 * np.log(2) / 5))
    source = [0.25 * 31 + radius * np.sin(angle), 0.5 * 23 + radius * np.cos(angle)]
    theirs = [
        scipy.ndimage.map_coordinates(IMAGE[..., c], source, order=1, mode="nearest")
        for c in range(3)
    ]
    close(part("swirl", 1.5, 0.4, 0.25, 0.5), np.stack(theirs, -1), 1e-4)


def test_add_noise():
    noise = part("add_noise", 0.05) - IMAGE
    assert abs(noise.std() - 0.05) < 0.004 and abs(noise.mean()) < 0.004
    close(part("add_noise", 0.0), IMAGE)


def test_disturb_spectrum():
    spectrum, disturbed = (
        scipy.fft.dctn(image.astype(float), axes=(0, 1), norm="ortho")
        for image in (IMAGE, part("disturb_spectrum", 0.2))
    )
    close(disturbed[0, 0], spectrum[0, 0], 1e-4)
    large = np.abs(spectrum) > 0.02
    large[0, 0] = False
    factor = disturbed[large] / spectrum[large]
    dropped = np.abs(factor) < 1e-2
    assert 0.15 < dropped.mean() < 0.25
    assert (np.abs(factor[~dropped] - 1) < 0.021).all()
    assert factor[~dropped].std() > 0.008


def test_zoom():
    close(part("zoom", 1.0), IMAGE)
    y, x = np.mgrid[:10, :10] / 9
    enlarged = part("zoom", 0.5, image=np.stack([y, x, x], -1).astype(np.float32))
    for axis, channel in ((0, 0), (1, 1)):
        close(np.ptp(enlarged[..., channel], axis), 4 / 9)


def test_shift_colours():
    luma = lambda image: image @ LUMA
    shifted = part("shift_colours", 0.05, 0.03, -0.02)
    close(luma(shifted), luma(IMAGE) + 0.05)
    change = np.broadcast_to(shifted[0, 0] - IMAGE[0, 0], IMAGE.shape)
    close(shifted - IMAGE, change)
    close(change[0, 0, [0, 2]], [0.05 + 0.03, 0.05 - 0.02])
    close(
        part("shift_colours", 0.05, 1, 1, image=IMAGE[..., :1]), IMAGE[..., :1] + 0.05
    )


def test_stretch_contrast():
    stretched = part("stretch_contrast", 1.4)
    close(stretched.mean(), IMAGE.mean())
    close(stretched.std(), 1.4 * IMAGE.std())


def test_mix_gray():
    gray = part("mix_gray", 1.0)
    close(gray, np.broadcast_to(gray[..., :1], gray.shape))
    weights = np.linalg.lstsq(IMAGE.reshape(-1, 3), gray[..., 0].ravel())[0]
    close(weights.sum(), 1, 1e-4)
    assert (weights > 0.04).all()
    close(part("mix_gray", 0.3), 0.7 * IMAGE + 0.3 * gray)
    close(part("mix_gray", 0.3, image=IMAGE[..., :1]), IMAGE[..., :1])


def test_blur():
    image = np.zeros((15, 15, 1), np.float32)
    image[7, 7] = 1
    theirs = scipy.ndimage.gaussian_filter(image, 0.8, axes=(0, 1), truncate=8)
    close(part("blur", 0.8, image=image), theirs)
    close(part("blur", 0.8, image=np.full((4, 3, 1), 0.6)), 0.6)


def test_each_part_once_and_in_any_order():
    # Rounded to levels and then moved from them, or moved and then rounded.
    config = BarrageConfig(2, ("shift_colours", "reduce_colours"))
    images = np.broadcast_to(np.float32([0.2, 0.5, 0.8]), (40, 1, 4, 3))
    done = np.asarray(bombard(images, transform_contract.KEY, config)).astype(float)
    levels = np.arange(8, 201)
    off = (
        np.abs(
            done[:, 0, 0, None] * levels[:, None]
            - np.round(done[:, 0, 0, None] * levels[:, None])
        )
        .max(-1)
        .min(-1)
    )
    assert {True, False} == set(off < 1e-4)
    assert (np.abs(done - images) > 1e-4).any((1, 2, 3)).all()


def test_parts_are_chosen_alike():
    # Only these change a flat image, each in its own way.
    config = BarrageConfig(1, ("shift_colours", "add_noise", "blur"))
    images = np.full((90, 2, 4, 3), 0.5, np.float32)
    done = np.asarray(bombard(images, transform_contract.KEY, config))
    unchanged = np.abs(done - 0.5).max((1, 2, 3)) < 1e-6
    noisy = done.std((1, 2)).max(-1) > 1e-6
    counts = [unchanged.sum(), noisy.sum(), (~unchanged & ~noisy).sum()]
    assert sum(counts) == 90 and min(counts) >= 15


def test_contract():
    # All of them take long to compile, so that is done once.
    some = ("mix_gray", "zoom")
    config = BarrageConfig(2, some)
    transform_contract.check(
        bombard, bombard_one, config, flat=1e-6, thin=False, eager=False
    )
    image = transform_contract.photograph((5, 7, 3))
    done = np.asarray(bombard(image, transform_contract.KEY, BarrageConfig(len(PARTS))))
    assert done.shape == image.shape and ((done >= 0) & (done <= 1)).all()
    assert np.abs(done - image).mean() > 0.02


def test_derivative(x64):
    image = jnp.asarray(transform_contract.photograph((4, 5, 3)), float)
    config = BarrageConfig(3, ("swirl", "zoom", "blur"))
    transform_contract.check_derivative(
        bombard_one, image, transform_contract.KEY, config
    )


@pytest.mark.parametrize(
    "name, values",
    [
        ("count", {"count": 0}),
        ("count", {"count": 2, "parts": ("blur",)}),
        ("parts", {"parts": ("blur", "blur")}),
        ("parts", {"parts": ("sharpen",)}),
    ],
)
def test_bad_settings_are_named(name, values):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        BarrageConfig(**values)
