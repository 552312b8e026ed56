import jax
import numpy as np
import pytest

from benchmarks import _twins, adaptive
from train import models

KEY = jax.random.key(3)


def images(n=3):
    return np.random.default_rng(0).random((n, 12, 10, 3), np.float32)


def test_usvt_is_the_leading_part_of_what_was_observed():
    batch = images()
    found = np.asarray(adaptive.usvt(batch, KEY, 5))
    for i, image in enumerate(batch):
        kept = jax.random.bernoulli(jax.random.fold_in(KEY, 5 + i), 0.5, (12, 10))
        for channel in range(3):
            observed = (2 * image[..., channel].astype(float) - 1) * kept / 0.5
            u, s, vt = np.linalg.svd(observed)
            low_rank = (u[:, :8] * s[:8]) @ vt[:8]
            expected = np.clip((low_rank + 1) / 2, 0, 1)
            np.testing.assert_allclose(found[i, ..., channel], expected, atol=1e-5)


@pytest.mark.slow
def test_usvt_has_a_derivative_and_keeps_images_apart():
    batch = images()
    weights = np.random.default_rng(1).normal(size=batch.shape).astype(np.float32)
    total = lambda x: (weights[: len(x)] * adaptive.usvt(x, KEY, 0)).sum()
    slope = np.asarray(jax.grad(total)(batch))
    assert np.isfinite(slope).all() and slope.any()
    np.testing.assert_allclose(jax.grad(total)(batch[:1]), slope[:1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_the_twin_in_pytorch_is_one(name):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    model = models.create(name, 10, seed=0)
    network = jax.jit(models.logits_function(*models.split(model)))
    batch = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    assert _twins.difference(network, _twins.torch_twin(model), batch) < 1e-3
    other = _twins.torch_twin(models.create(name, 10, seed=1))
    with pytest.raises(RuntimeError, match="differ"):
        _twins.difference(network, other, batch)
