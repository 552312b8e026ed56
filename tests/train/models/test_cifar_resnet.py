import pathlib

import jax
import numpy as np
import pytest
from networks import import_or_skip

from benchmarks import _twins
from train.models import cifar_resnet

DATA = pathlib.Path(__file__).parents[3].parent / "shared" / "data"


def drawn(blocks=1, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in cifar_resnet._shapes(blocks, classes):
        values = rng.normal(size=shape) / max(1, np.prod(shape[1:])) ** 0.5
        if name.endswith("running_var"):
            values = 0.5 + values**2
        arrays[name] = values.astype(np.float32)
    return arrays


@pytest.mark.parametrize("blocks", [1, 2])
def test_logits_are_those_of_pytorch(blocks):
    (torch,) = import_or_skip("torch")
    torch.set_num_threads(1)
    arrays = drawn(blocks)
    images = np.random.default_rng(1).uniform(size=(3, 32, 32, 3)).astype(np.float32)
    found = jax.jit(lambda network, x: network(x))(
        cifar_resnet.from_arrays(arrays), images
    )
    with torch.no_grad():
        twin = _twins.cifar_twin(arrays)
        expected = twin(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_file_is_read_with_or_without_counters(tmp_path):
    arrays = drawn()
    np.savez(tmp_path / "one.npz", **arrays, **{"bn1.num_batches_tracked": 7})
    loaded = cifar_resnet.load(tmp_path / "one.npz")
    for one, other in zip(
        jax.tree.leaves(loaded),
        jax.tree.leaves(cifar_resnet.from_arrays(arrays)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layer2.0.bn1.bias"), "lack layer2.0.bn1.bias"),
        (lambda w: w.clear(), "lack bn1.bias"),
        (lambda w: w.update({"fc.bias": w["bn1.bias"]}), "unknown fc.bias"),
        (lambda w: w.update({"bn1.bias": np.zeros(3)}), r"bn1.bias has shape \(3,\)"),
    ],
)
def test_other_weights_are_refused(change, message):
    arrays = drawn()
    change(arrays)
    with pytest.raises(ValueError, match=message):
        cifar_resnet.from_arrays(arrays)


@pytest.mark.slow
def test_the_published_resnet56_is_right_on_94_percent_of_500_originals():
    weights, images = DATA / "resnet56_cifar10.npz", DATA / "cifar10_lossless_test.npz"
    if not (weights.is_file() and images.is_file()):
        pytest.skip(f"no published weights or original images in {DATA.name}")
    with np.load(images) as archive:
        pixels = archive["images"][:500].astype(np.float32) / 255
        labels = archive["labels"][:500]
    logits = jax.jit(lambda network, x: network(x))(cifar_resnet.load(weights), pixels)
    assert (logits.argmax(1) == labels).sum() == 470
