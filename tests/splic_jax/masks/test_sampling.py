import jax
import numpy as np
import pytest
from scipy import stats

from splic_jax import sample_mask


@pytest.mark.parametrize("keep_probability", [0.3, 0.5, 0.8])
def test_share_of_anchors(keep_probability):
    mask = np.asarray(sample_mask(jax.random.key(0), (64, 64, 1), keep_probability))
    test = stats.binomtest(int(mask.sum()), mask.size, keep_probability)
    assert test.pvalue > 1e-4


def test_shared_is_one_mask_and_independent_one_for_each_channel():
    shared = np.asarray(sample_mask(jax.random.key(1), (16, 12, 3), 0.5, "shared"))
    assert shared.shape == (16, 12, 3)
    assert (shared == shared[..., :1]).all()
    own = np.asarray(sample_mask(jax.random.key(1), (16, 12, 3), 0.5, "independent"))
    assert all((own[..., i] != own[..., j]).any() for i, j in [(0, 1), (1, 2), (0, 2)])


def test_follows_from_its_key():
    draw = lambda seed: np.asarray(sample_mask(jax.random.key(seed), (9, 7, 3)))
    assert (draw(5) == draw(5)).all()
    assert (draw(5) != draw(6)).any()


def test_never_without_an_anchor():
    for seed in range(20):
        mask = sample_mask(jax.random.key(seed), (1, 2, 3), 1e-6, "independent")
        assert (np.asarray(mask).sum(axis=(0, 1)) == 1).all()


def test_keep_probability_of_one_keeps_all():
    assert np.asarray(sample_mask(jax.random.key(2), (8, 8, 3), 1.0)).all()
