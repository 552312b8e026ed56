"""Images as matrices, and the masking that ME-Net's three methods share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splic_jax.layout.channels import from_matrices, to_matrices
from splic_jax.masks.sampling import sample_mask
from splic_jax.transforms.completion.matrices import estimate
from splic_jax.transforms.completion.usvt import USVTConfig

IMAGE = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 5, 3)), jnp.float32)


def test_separate_is_a_matrix_a_channel():
    matrices = to_matrices(IMAGE, "separate")
    assert matrices.shape == (3, 4, 5)
    np.testing.assert_array_equal(matrices[1], IMAGE[:, :, 1])


def test_concatenated_puts_channels_side_by_side():
    (matrix,) = to_matrices(IMAGE, "concatenated")
    expected = np.concatenate([IMAGE[:, :, k] for k in range(3)], axis=1)
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize("channels", ["separate", "concatenated"])
@pytest.mark.parametrize("count", [1, 3])
def test_back_again(channels, count):
    image = IMAGE[:, :, :count]
    back = from_matrices(to_matrices(image, channels), count)
    np.testing.assert_array_equal(back, image)


def test_estimate_shows_kept_entries_alone():
    seen = []

    def complete(matrix, mask):
        seen.append((matrix, mask))
        return matrix

    config, key = USVTConfig(channels="separate"), jax.random.key(1)
    out = estimate(IMAGE, key, config, complete)
    mask = sample_mask(key, IMAGE.shape, 0.5, "independent")
    assert 0 < np.mean(mask) < 1
    # Entries that are not kept are 0 in [-1, 1], which is grey.
    np.testing.assert_allclose(out, np.where(mask, IMAGE, 0.5), atol=1e-7)
    assert len(seen) == 1
