import pathlib
import re

import jax
import numpy as np
import pytest
from flax import nnx
from networks import import_or_skip

from benchmarks import _twins
from train import models
from train.models import cifar_resnet

DATA = pathlib.Path(__file__).parents[3].parent / "shared" / "data"


def drawn(blocks=1, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in cifar_resnet.shapes(blocks, classes).items():
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
    network = models.logits_function(*cifar_resnet.from_arrays(arrays))
    found = jax.jit(lambda network, x: network(x))(network, images)
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
    network = models.logits_function(*cifar_resnet.load(weights))
    logits = jax.jit(lambda network, x: network(x))(network, pixels)
    assert (logits.argmax(1) == labels).sum() == 470


@pytest.mark.parametrize(
    ("name", "count"), [("resnet20", 269_722), ("resnet56", 853_018)]
)
def test_a_model_of_the_name_has_the_published_size(name, count):
    variables = nnx.state(models.outline(name, 10), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count
    layers = re.fullmatch(r"resnet(\d+)", name)[1]
    names = cifar_resnet.shapes(models.CIFAR_BLOCKS[name], 10)
    assert sum("conv" in name for name in names) + 1 == int(layers)


def test_the_twin_of_a_trained_network_is_the_same():
    (torch,) = import_or_skip("torch")
    torch.set_num_threads(1)
    split = cifar_resnet.from_arrays(drawn())
    images = np.random.default_rng(1).uniform(size=(3, 32, 32, 3)).astype(np.float32)
    twin, other = _twins.torch_twin(nnx.merge(*split)), _twins.cifar_twin(drawn())
    with torch.no_grad():
        pixels = torch.tensor(images).permute(0, 3, 1, 2)
        found, expected = twin(pixels), other(pixels)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
