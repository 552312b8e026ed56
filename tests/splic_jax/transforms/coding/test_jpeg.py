"""JPEG against Pillow's (libjpeg), and its quantisation against SciPy's DCT."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import transform_contract
from PIL import Image

from splic_jax.transforms.coding.jpeg import (
    CHROMA_TABLE,
    LUMA_TABLE,
    JPEGConfig,
    compress,
    compress_one,
    quantise,
    scaled_table,
)


def encoded(image, quality, subsampling):
    """A JPEG file of uint8 levels, opened."""
    file = io.BytesIO()
    pixels = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    pixels.save(file, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(file)


def by_scipy(plane, steps, rounding):
    """Block by block in float64; the plane has whole blocks."""
    result = np.zeros(plane.shape)
    for i in range(0, plane.shape[0], 8):
        for j in range(0, plane.shape[1], 8):
            block = (slice(i, i + 8), slice(j, j + 8))
            ratio = scipy.fft.dctn(plane[block].astype(float), norm="ortho") / steps
            result[block] = scipy.fft.idctn(rounding(ratio) * steps, norm="ortho")
    return result


def cubic(x):
    return np.round(x) + (x - np.round(x)) ** 3


def test_tables_are_pillows_at_every_quality():
    image = np.zeros((8, 8, 3), np.uint8)
    qualities = np.arange(1, 101)
    ours = [
        jax.jit(jax.vmap(functools.partial(scaled_table, table)))(qualities)
        for table in (LUMA_TABLE, CHROMA_TABLE)
    ]
    for quality, luma, chroma in zip(qualities, *ours, strict=True):
        theirs = encoded(image, int(quality), "4:4:4").quantization
        np.testing.assert_array_equal(luma.ravel(), theirs[0])
        np.testing.assert_array_equal(chroma.ravel(), theirs[1])


@pytest.mark.parametrize(
    "shape, quality, subsampling",
    [
        ((32, 32, 3), 75, "4:2:0"),
        ((32, 32, 3), 30, "4:4:4"),
        ((13, 30, 3), 90, "4:2:0"),
        ((9, 3, 3), 75, "4:2:0"),
        ((32, 32, 1), 75, "4:2:0"),
    ],
    ids=str,
)
def test_levels_are_pillows(shape, quality, subsampling):
    levels = [
        np.uint8(np.round(transform_contract.photograph(shape, seed) * 255))
        for seed in range(20)
    ]
    ours = compress(
        np.stack(levels), transform_contract.KEY, JPEGConfig(quality, subsampling)
    ).astype(int)
    theirs = np.stack(
        [np.asarray(encoded(image, quality, subsampling)) for image in levels]
    ).reshape(ours.shape)
    difference = np.abs(ours - theirs)
    # Here 94 to 99.9 % are equal and 98 % within a level: a coefficient near to half a
    # step may fall to the other side, and then all of its block differs by a little.
    assert (difference > 0).mean() < 0.08
    assert (difference > 1).mean() < 0.03
    assert np.abs(theirs - np.asarray(levels, int)).mean() > 5


@pytest.mark.parametrize(
    "rounding, rounded", [("exact", np.round), ("differentiable", cubic)]
)
def test_quantisation_by_scipy(rounding, rounded):
    plane = transform_contract.photograph((16, 24, 1))[..., 0] * 255 - 128
    steps = np.asarray(scaled_table(LUMA_TABLE, jnp.asarray(60)))
    ours = jax.jit(quantise, static_argnums=2)(plane, steps, rounding)
    np.testing.assert_allclose(ours, by_scipy(plane, steps, rounded), rtol=0, atol=2e-3)


def test_differentiable_is_near_exact_and_has_the_derivative_of_the_cubic(x64):
    image = jnp.asarray(transform_contract.photograph((9, 10, 3)), float)
    smooth, exact = JPEGConfig(rounding="differentiable"), JPEGConfig()
    transform_contract.check_derivative(
        compress_one, image, transform_contract.KEY, smooth
    )
    run = jax.jit(compress_one, static_argnums=2)
    results = [run(image, transform_contract.KEY, config) for config in (smooth, exact)]
    assert 0 < jnp.abs(results[0] - results[1]).mean() < 4 / 255
    total = lambda image: jnp.sum(compress_one(image, transform_contract.KEY, exact))
    assert not jax.jit(jax.grad(total))(image).any()


def test_contract():
    transform_contract.check(compress, compress_one, JPEGConfig())
    # A loop over one image is none to the compiler, which then fuses otherwise.
    config = JPEGConfig(rounding="differentiable")
    transform_contract.check(compress, compress_one, config, alone=2e-7, eager=False)


@pytest.mark.parametrize(
    "name, value",
    [("quality", 0), ("quality", 101)],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        JPEGConfig(**{name: value})
