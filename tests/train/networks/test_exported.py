import json

import jax
import numpy as np
import pytest

from splic_jax import SPLICConfig
from train import models
from train.networks.classifier import from_weights
from train.networks.exported import export
from train.networks.weights import read_weights
from train.training.checkpoints import LoadedModel
from train.training.settings import TrainSettings
from train.utils.errors import UserError

DATASET = {
    "name": "shapes",
    "num_train": 8,
    "image_shape": [32, 32, 3],
    "sha256": "0" * 64,
}


@pytest.fixture(scope="module")
def trained():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.STAGES, "small", ((4, 1),))  # compiles in a second
        settings = TrainSettings(defense=SPLICConfig(rank=5), seed=3)
        model = models.create("small", 2, seed=3)
        yield LoadedModel(*models.split(model), settings, ("dark", "bright"), DATASET)


def test_what_is_exported_is_what_is_read(trained, tmp_path):
    path = tmp_path / "small.safetensors"
    export(trained, path)
    before = path.read_bytes()
    export(trained, path)
    assert path.read_bytes() == before
    metadata = read_weights(path).metadata
    assert json.loads(metadata["network"])["settings"]["defense"]["rank"] == 5
    found = from_weights(path, "small")
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    expected = models.logits_function(trained.graphdef, trained.variables)
    run = jax.jit(lambda network, images: network(images))
    np.testing.assert_array_equal(run(found.logits, images), run(expected, images))
    assert (found.defense, found.seed) == (trained.settings.defense, 3)
    assert found.record["training_set"] == DATASET
    with pytest.raises(UserError, match="is of small, not of --model=resnet20"):
        from_weights(path, "resnet20")


def test_other_files_are_in_no_danger(trained, tmp_path):
    with pytest.raises(UserError, match=r"--export=.*\.npz must end in .safetensors"):
        export(trained, tmp_path / "small.npz")
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="exists, and is another file"):
        export(trained, path)
    assert path.read_bytes() == b"something else"


def test_arrays_that_do_not_fit_the_settings_are_named(trained, tmp_path):
    path = tmp_path / "small.safetensors"
    other = trained._replace(class_names=("one", "two", "three"))
    export(other, path)
    with pytest.raises(UserError, match="head/.* has shape .*, not .*3"):
        from_weights(path, None)
