"""What the fused kernel has to do, counted."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import _floor
from splic_jax import SPLICConfig, complete

# Of a small lambda, so that images take different numbers of steps.
CONFIG = SPLICConfig(tv_weight=0.02, max_steps=28, tolerance=0.02)


def test_work_of_the_kernel():
    work = _floor.work((32, 32), SPLICConfig())
    assert work.bytes == 4 * (3 * 32 * 32 + 32 * 16 + 3)
    m, p = 32, 16
    # X Q and its Gram matrix at the start, the last turn, the descent and the TV.
    products = 2 * p * m * p + m * m * p
    assert work.each_step > products + 2 * m * m * p
    assert work.each_correction > 3 * products / 2
    # As padded, so as many for a smaller one; none for a TV that is not there.
    assert _floor.work((20, 31), SPLICConfig(rank=8)) == work
    without = _floor.work((32, 32), SPLICConfig(tv_weight=0.0))
    assert work.each_step - without.each_step == 2 * m * m * p + m * m * p
    assert work.each_correction == without.each_correction
    with pytest.raises(ValueError, match="the fused kernel does not support"):
        _floor.work((33, 32), SPLICConfig())


@pytest.mark.slow
def test_counts_what_completions_take():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(5, 16, 17)).astype(np.float32)
    images[0] = 0.5
    masks = rng.uniform(size=images.shape) < 0.5
    found = _floor.taken(images, masks, CONFIG)
    expected = jax.jit(jax.vmap(lambda *a: complete(*a, CONFIG)))(images, masks)
    np.testing.assert_array_equal(found.steps, expected.steps)
    assert len(set(found.steps.tolist())) > 1
    np.testing.assert_allclose(found.matrices, expected.matrix, atol=1e-4)
    assert (found.corrections >= found.steps).all()
    assert (found.corrections <= 3 * found.steps).all()


@pytest.mark.slow
def test_of_an_image_is_a_mean_over_images():
    image = np.random.default_rng(0).uniform(size=(1, 16, 16, 2)).astype(np.float32)
    mask = image < 0.5
    one = _floor.of_an_image(image, mask, CONFIG)
    both = (np.concatenate([a, a]) for a in (image, mask))
    assert _floor.of_an_image(*both, CONFIG) == {**one, "images": 2}
    single = dataclasses.replace(CONFIG, alternate=False)
    half = _floor.of_an_image(image, mask, single)
    assert half["bytes_per_image"] == one["bytes_per_image"] / 2


def test_the_floor_is_the_slower_of_the_two():
    counts = {"multiply_adds_per_image": 5e8, "bytes_per_image": 2e6}
    assert _floor.milliseconds(counts, 1, None) == pytest.approx(1)
    assert _floor.milliseconds(counts, None, 1) == pytest.approx(2)
    assert _floor.milliseconds(counts, 1, 1) == pytest.approx(2)
    assert _floor.milliseconds(counts, None, None) is None
