import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import _reference
from splic_jax import SPLICConfig, complete, purification, purify
from splic_jax.purification import default_chunk_size
from splic_jax.solvers import kernel


def photographs(count, shape, seed=0):
    """Spectra falling off as those of photographs do, in [0, 1]."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij"))
    noise = np.fft.fft2(rng.normal(size=(count, *shape)))
    images = np.fft.ifft2(noise / (frequency + 0.02) ** 1.5).real
    images -= images.min((1, 2), keepdims=True)
    return (images / images.max((1, 2), keepdims=True)).astype(np.float32)


def masks_for(images, keep, seed=0):
    masks = np.random.default_rng(seed).uniform(size=images.shape)
    masks = masks < np.reshape(keep, (-1, 1, 1))
    masks[:, 0, 0] = True
    return masks


def run_fused(images, masks, config, blocks=1):
    run = jax.jit(
        lambda *a: kernel.complete_fused(*a, config, blocks=blocks, interpret=True)
    )
    return run(images, masks)


SHORT = SPLICConfig(max_steps=35, tolerance=0.0)
CASES = [
    ((32, 32), dataclasses.replace(SHORT, rank=4)),
    pytest.param((32, 32), dataclasses.replace(SHORT, rank=16), marks=pytest.mark.slow),
    pytest.param((20, 28), dataclasses.replace(SHORT, rank=9), marks=pytest.mark.slow),
    ((27, 17), dataclasses.replace(SHORT, tv_weight=0.0)),
    pytest.param((16, 23), SHORT, marks=pytest.mark.slow),
    ((24, 31), dataclasses.replace(SPLICConfig.printed(), max_steps=35, rank=6)),
]


@pytest.mark.parametrize(("shape", "config"), CASES)
def test_equals_the_numpy_reference(shape, config):
    keep = [0.3, 0.5, 0.8, 0.65]
    images = photographs(4, shape)
    masks = masks_for(images, keep)
    got = run_fused(images, masks, config)
    expected = [
        _reference.complete(image.astype(np.float64), mask, config)
        for image, mask in zip(images, masks, strict=True)
    ]
    difference = np.abs(got.matrix - np.stack([matrix for matrix, _, _ in expected]))
    assert difference.mean() < 1e-3
    assert (difference > 0.02).mean() < 1e-3
    np.testing.assert_array_equal(got.steps, [steps for _, steps, _ in expected])
    last = [changes[-1] for _, _, changes in expected]
    np.testing.assert_allclose(got.relative_change, last, rtol=0.2, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(got.matrix)[masks], images[masks])


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [((17, 20), 2), pytest.param((32, 32), 3, marks=pytest.mark.slow)],
)
def test_images_side_by_side_equal_the_fast_solver(shape, blocks):
    """Channels concatenated: one matrix, and a total variation for each."""
    height, width = shape
    images = photographs(3, (height, blocks * width))
    masks = masks_for(images, [0.4, 0.5, 0.7])
    got = run_fused(images, masks, SHORT, blocks)

    def by_the_fast_solver(blocks):
        run = jax.jit(jax.vmap(lambda *a: complete(*a, SHORT, blocks=blocks)))
        return run(images, masks)

    expected = by_the_fast_solver(blocks)
    np.testing.assert_allclose(got.matrix, expected.matrix, atol=2e-3)
    assert np.abs(got.matrix - expected.matrix).mean() < 5e-5
    np.testing.assert_array_equal(got.steps, expected.steps)
    np.testing.assert_array_equal(np.asarray(got.matrix)[masks], images[masks])
    one_wide_image = by_the_fast_solver(1)
    assert np.abs(got.matrix - one_wide_image.matrix).max() > 0.01


def special_images():
    """Ties, flat, one all of anchors, black, one row, the identity."""
    i, j = np.indices((32, 32))
    tied = 0.5 + 0.25 * (np.cos(np.pi * (i + 0.5) * 5 / 32) + np.cos(np.pi * j / 4))
    flat, black = np.full((32, 32), 0.4), np.zeros((32, 32))
    row = np.where(i == 3, 0.9, 0.0)
    images = [tied, flat, *photographs(1, (32, 32)), black, row, np.eye(32)]
    images = np.stack(images).astype(np.float32)
    masks = masks_for(images, 0.5)
    masks[2] = True
    return images, masks


@pytest.mark.parametrize("rank", [4, pytest.param(16, marks=pytest.mark.slow)])
def test_ties_flat_black_and_whole_images(rank):
    images, masks = special_images()
    config = SPLICConfig(max_steps=42, rank=rank)
    got = run_fused(images, masks, config)
    for k in range(3):
        expected, _, _ = _reference.complete(
            images[k].astype(np.float64), masks[k], config
        )
        np.testing.assert_allclose(got.matrix[k], expected, atol=0.02)
        assert np.mean(np.abs(got.matrix[k] - expected)) < 1e-3
    assert not np.any(got.matrix[3])
    # Of one row all singular values but one are rounding; those of the identity tie.
    assert np.all(np.abs(got.matrix[4:]) < 2)
    np.testing.assert_array_equal(np.asarray(got.matrix)[masks], images[masks])


def test_equals_the_fast_solver():
    images = photographs(3, (32, 32))
    masks = masks_for(images, [0.3, 0.5, 0.8])
    config = SPLICConfig()
    got = run_fused(images, masks, config)
    expected = jax.jit(jax.vmap(lambda *a: complete(*a, config)))(images, masks)
    np.testing.assert_allclose(got.matrix, expected.matrix, atol=1e-3)
    assert np.abs(got.matrix - expected.matrix).mean() < 1e-5
    np.testing.assert_array_equal(got.steps, expected.steps)
    np.testing.assert_array_equal(got.converged, expected.converged)


def test_each_stops_alone_whatever_is_beside_it():
    images = photographs(3, (16, 16))
    masks = masks_for(images, [0.4, 0.6, 0.9])
    config = SPLICConfig(tolerance=4e-3, max_steps=70)
    together = run_fused(images, masks, config)
    expected = [
        _reference.complete(image.astype(np.float64), mask, config)[1]
        for image, mask in zip(images, masks, strict=True)
    ]
    np.testing.assert_array_equal(together.steps, expected)
    assert len(set(expected)) > 1
    assert np.all(together.converged)
    for k in range(3):
        beside = np.stack([images[k], np.flip(images[k - 1])])
        alone = run_fused(beside, np.stack([masks[k], masks[k - 1]]), config)
        np.testing.assert_array_equal(alone.matrix[0], together.matrix[k])
        assert alone.steps[0] == together.steps[k]


def purify_interpreted(images, key, config, chunk=6):
    """`purify` as on a GPU, the kernel interpreted."""
    indices = jnp.arange(len(images))
    done, _ = purification._compiled(images, indices, key, config, chunk, True)
    return done


def test_purify_by_the_kernel(monkeypatch):
    """Both passes, all channels, two chunks; as the fast solver does it."""
    images = np.moveaxis(photographs(36, (18, 16)).reshape(12, 3, 18, 16), 1, -1)
    images[0] = 0
    config, key = SPLICConfig(max_steps=28), jax.random.key(0)
    calls, run = [], kernel.complete_fused
    monkeypatch.setattr(
        kernel, "complete_fused", lambda *a, **k: calls.append(a) or run(*a, **k)
    )
    got = purify_interpreted(images, key, config)
    assert calls
    np.testing.assert_allclose(got, purify(images, key, config), atol=1e-3)
    whole = dataclasses.replace(config, keep_probability=1.0, max_steps=7)
    np.testing.assert_array_equal(purify_interpreted(images, key, whole), images)


@pytest.mark.parametrize(
    ("run", "settings", "width"),
    [
        (purify, {}, 16),  # without a GPU
        pytest.param(purify_interpreted, {"tv_scales": 2}, 16, marks=pytest.mark.slow),
        # Side by side, and narrow enough for the tall way to be the other one.
        pytest.param(
            purify_interpreted, {"channels": "concatenated"}, 5, marks=pytest.mark.slow
        ),
    ],
)
def test_purify_does_without_the_kernel(monkeypatch, run, settings, width):
    def refused(*_, **__):
        raise AssertionError("the kernel was used")

    monkeypatch.setattr(kernel, "complete_fused", refused)
    images = photographs(6, (16, width)).reshape(2, 16, width, 3)
    config, key = SPLICConfig(max_steps=7, **settings), jax.random.key(0)
    tracked = dataclasses.replace(config, solver="tracked")
    got, expected = run(images, key, config), run(images, key, tracked)
    np.testing.assert_array_equal(got, expected)


def test_says_what_it_does_not_do():
    image = jnp.zeros((1, 40, 8))
    with pytest.raises(ValueError, match=r"splic_jax\.complete"):
        kernel.complete_fused(image, image == 0)
    square, double = (32, 32), jnp.dtype("float64")
    assert kernel.supports(SPLICConfig(), square)
    assert not kernel.supports(SPLICConfig(), square, double)
    assert not kernel.supports(SPLICConfig(), (32, 96))
    assert kernel.supports(SPLICConfig(), (32, 96), blocks=3)
    assert not kernel.supports(SPLICConfig(), (32, 30), blocks=3)
    assert not kernel.supports(SPLICConfig(), (32, 160), blocks=5)
    assert not kernel.supports(SPLICConfig(solver="exact"), square)
    assert not kernel.supports(SPLICConfig(rank_cut=False), square)
    assert not kernel.supports(SPLICConfig(tv_scales=2), square)
    assert kernel.supports(SPLICConfig(tv_scales=2, tv_weight=0.0), square)


def lowered_for_a_gpu(function, *arguments):
    device = jax.sharding.AbstractDevice(
        device_kind="NVIDIA H200", num_cores=132, platform="gpu"
    )
    mesh = jax.sharding.AbstractMesh(
        (1,), ("x",), (jax.sharding.AxisType.Explicit,), abstract_device=device
    )
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(function).trace(*arguments)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize("shape", [(32, 32), (16, 20)])
def test_compiles_to_a_gpu_kernel(shape):
    images = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    masks = jax.ShapeDtypeStruct((3, *shape), jnp.bool_)
    lowered = lowered_for_a_gpu(kernel.complete_fused, images, masks)
    # The Gram matrix, and all the rest.
    assert lowered.count("xla.gpu.triton") == 2
    assert "cusolver" in lowered


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize("solver", ["fast", "tracked"])
@pytest.mark.parametrize("channels", ["separate", "concatenated"])
def test_purify_on_a_gpu_takes_the_kernel(monkeypatch, solver, channels):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    config = SPLICConfig(solver=solver, channels=channels)
    images = jax.ShapeDtypeStruct((3, 32, 32, 3), jnp.float32)
    key = jax.random.key(0)
    lowered = lowered_for_a_gpu(lambda x: purify(x, key, config), images)
    assert lowered.count("xla.gpu.triton") == 2 * (solver == "fast")
    # Nor do XLA's products, whose order of sums may depend on the batch.
    assert solver == "tracked" or "stablehlo.dot_general" not in lowered


def test_chunks_are_larger_where_the_kernel_takes_them(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    shape = 32, 32, 3
    of_kernel = default_chunk_size(shape, "gpu")
    of_products = default_chunk_size(shape, "gpu", SPLICConfig(solver="tracked"))
    assert of_kernel > of_products
