"""Tests of train/training/step.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.training import step


@pytest.mark.parametrize("flips", [False, True])
def test_augmentation_shifts_and_mirrors(flips: bool) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (8, 6, 3), dtype=np.uint8)
    batch = np.repeat(image[None], 200, axis=0)
    result = step.augment(jnp.asarray(batch), jax.random.key(0), flips)
    assert result.dtype == jnp.float32
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    crops = {
        (i, j): padded[i : i + 8, j : j + 6].astype(np.float32) / 255
        for i in range(9)
        for j in range(9)
    }
    found = set()
    for one in np.asarray(result):
        matches = {
            (*where, 0) for where, crop in crops.items() if np.allclose(one, crop)
        }
        matches |= {
            (*where, 1)
            for where, crop in crops.items()
            if np.allclose(one, crop[:, ::-1])
        }
        assert len(matches) == 1
        found |= matches
    rows_seen, columns_seen, mirrored = (
        set(values) for values in zip(*found, strict=True)
    )
    assert rows_seen == columns_seen == set(range(9))
    assert mirrored == ({0, 1} if flips else {0})
