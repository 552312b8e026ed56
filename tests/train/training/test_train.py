"""Tests of train/train.py and train/training/checkpoints.py."""

import dataclasses
import io
import json
import pathlib
import shutil
import threading

import binaries
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from flax import nnx
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from attacks import pgd
from splic_jax import BitDepthConfig, SPLICConfig, transform
from splic_jax.transforms.coding.quilting import QuiltingConfig
from splic_jax.transforms.coding.thermometer import ThermometerConfig
from splic_jax.transforms.random.crop_rescale import CropRescaleConfig
from train import models
from train import train as binary
from train.data import loading
from train.data.loading import Dataset
from train.networks.weights import read_weights
from train.recipes import RECIPES
from train.recipes.ensemble import Ensemble
from train.recipes.fast import Fast
from train.recipes.pgd import PGD
from train.training import checkpoints, loop
from train.training.checkpoints import LoadedModel, load_checkpoint
from train.training.loop import make_optimizer, train
from train.training.settings import TrainSettings
from train.training.step import TrainState, augment, make_train_step
from train.utils.errors import UserError
from train.utils.progress import Progress

SETTINGS = TrainSettings(epochs=3, batch_size=8, learning_rate=0.05, seed=1)


@pytest.fixture(autouse=True, scope="module")
def tiny_model() -> None:
    """One block of width 4, which compiles in a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.STAGES, "small", ((4, 1),))
        yield


def dataset_of(count: int, seed: int) -> Dataset:
    """Dark and bright images: what anything that learns gets right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.int32)
    images = rng.integers(0, 100, (count, 8, 8, 3)) + 120 * labels[:, None, None, None]
    return Dataset("shapes", images.astype(np.uint8), labels, ("dark", "bright"))


TRAINING, TEST = dataset_of(72, 0), dataset_of(30, 1)


class StopAfter(Progress):
    """Presses Ctrl-C when it is told about the end of an epoch."""

    def __init__(self, epoch: int):
        super().__init__(quiet=True)
        self.epoch = epoch

    def line(self, text: str) -> None:
        if text.startswith(f"epoch {self.epoch}/"):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[LoadedModel, pathlib.Path]:
    folder = tmp_path_factory.mktemp("trained") / "run"
    return train(SETTINGS, TRAINING, TEST, folder), folder


@pytest.fixture
def run_folder(trained, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the trained run, to be damaged."""
    return shutil.copytree(trained[1], tmp_path / "run")


def rows(folder: pathlib.Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def pictures(folder: pathlib.Path) -> dict[tuple[str, int], np.ndarray]:
    """The rows of images in the TensorBoard events, by name and step."""
    found = {}
    for path in sorted((folder / "tensorboard").glob("events.*")):
        content, start = path.read_bytes(), 0
        while start < len(content):
            # A record is its length, a checksum, itself, and another checksum.
            end = start + 12 + int.from_bytes(content[start : start + 8], "little")
            event = Event.FromString(content[start + 12 : end])
            for value in event.summary.value:
                if value.HasField("image"):
                    png = io.BytesIO(value.image.encoded_image_string)
                    image = np.asarray(Image.open(png))
                    shape = (value.image.height, value.image.width)
                    assert image.shape == (*shape, value.image.colorspace)
                    found[value.tag, event.step] = image
            start = end + 4
    return found


def row_of(images: np.ndarray) -> np.ndarray:
    """The first eight side by side."""
    return np.concatenate(images[:8], axis=1)


def assert_same(first: LoadedModel, second: LoadedModel) -> None:
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()), first.variables, second.variables
    )
    assert jax.tree.all(same)


def test_learns_and_records(trained) -> None:
    model, folder = trained
    logits = models.logits_function(model.graphdef, model.variables)(TEST.images / 255)
    accuracy = np.mean(np.argmax(logits, axis=-1) == TEST.labels)
    first, _, last = rows(folder)
    assert accuracy > 0.9
    assert last["test_accuracy"] == pytest.approx(accuracy)
    assert last["loss"] < first["loss"]
    assert [row["step"] for row in (first, last)] == [9, 27]
    assert [row["epoch"] for row in (first, last)] == [1, 3]
    cosine = [0.05 * (1 + np.cos(np.pi * step / 27)) / 2 for step in (8, 26)]
    np.testing.assert_allclose(
        [first["learning_rate"], last["learning_rate"]], cosine, rtol=1e-5
    )
    # Nobody attacks and nothing stands before the network: one row, as it begins.
    ((tag, row),) = pictures(folder).items()
    assert tag == ("test/clean", 0)
    assert row.shape == (8, 64, 3)
    np.testing.assert_array_equal(row, row_of(TEST.images))
    run = json.loads((folder / "run.json").read_text())
    assert run["class_names"] == ["dark", "bright"]
    assert run["versions"]["jax"] == jax.__version__


def test_resumes_bit_for_bit(trained, tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(SETTINGS, TRAINING, TEST, tmp_path, progress=StopAfter(1))
    # A line of the epoch that was under way, and one that was cut off.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 18, "epoch": 2, "loss": 0}\n{"step": 2')
    (tmp_path / "checkpoints" / "unfinished" / "model").mkdir(parents=True)
    resumed = train(SETTINGS, TRAINING, TEST, tmp_path)
    assert_same(resumed, trained[0])
    assert rows(tmp_path) == rows(trained[1])
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_finished_run_is_loaded(trained, run_folder: pathlib.Path) -> None:
    (run_folder / "metrics.jsonl").unlink()
    again = train(SETTINGS, TRAINING, TEST, run_folder)
    assert_same(again, trained[0])
    assert again.settings == SETTINGS
    assert again.class_names == ("dark", "bright")
    assert again.dataset["name"] == "shapes" and again.dataset["num_train"] == 72
    assert not (run_folder / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"learning_rate": 0.1}, "--learning_rate=0.05, not 0.1"),
        ({"epochs": 4}, "--epochs=3, not 4"),
        ({"seed": 2}, "--seed=1, not 2"),
        ({"model": "resnet18"}, "--model=small, not resnet18"),
        ({"texture_bias": 0.5}, "--texture_bias=None, not 0.5"),
        ({"compute_dtype": "bfloat16"}, "--compute_dtype=float32, not bfloat16"),
        ({"defense": SPLICConfig()}, "--defense=none, not splic"),
        ({"adversarial": PGD()}, "--adversarial=none, not pgd"),
    ],
)
def test_other_settings_are_refused(run_folder, change: dict, words: str) -> None:
    before = (run_folder / "run.json").read_bytes()
    with pytest.raises(UserError) as error:
        settings = dataclasses.replace(SETTINGS, **change)
        train(settings, TRAINING, TEST, run_folder)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert (run_folder / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    "dataset, flag",
    [
        (
            dataclasses.replace(TRAINING, name="cifar10"),
            "--dataset=shapes, not cifar10",
        ),
        (dataset_of(71, 0), "--num_train=72, not 71"),
        (dataset_of(72, 9), "--data_dir"),
        (dataclasses.replace(TRAINING, labels=1 - TRAINING.labels), "--data_dir"),
    ],
)
def test_other_images_are_refused(run_folder, dataset: Dataset, flag: str) -> None:
    with pytest.raises(UserError, match=flag):
        train(SETTINGS, dataset, TEST, run_folder)


def fake_purified(dataset, config, *, masks_per_image, seed, cache_dir, progress):
    """Mask m darkens the images to m quarters."""
    levels = np.arange(masks_per_image)[:, None, None, None, None]
    return (dataset.images[None] * levels // 4).astype(np.uint8)


def test_defense_trains_on_all_masks(tmp_path, monkeypatch) -> None:
    seen = {}

    def record(dataset, config, **options):
        seen[len(dataset.images)] = (config, options["masks_per_image"])
        return fake_purified(dataset, config, **options)

    fed = []
    make_train_step = loop.make_train_step

    def recording(*arguments, **options):
        step = make_train_step(*arguments, **options)

        def recorded(state, images, labels, key):
            fed.append((images, labels))
            return step(state, images, labels, key)

        return recorded

    monkeypatch.setattr(loop, "purified_dataset", record)
    monkeypatch.setattr(loop, "make_train_step", recording)
    config = SPLICConfig(rank=2)
    settings = dataclasses.replace(SETTINGS, defense=config, masks_per_image=4)
    result = train(settings, TRAINING, TEST, tmp_path)
    assert seen == {72: (config, 4), 30: (config, 1)}
    assert result.settings.defense == config
    np.testing.assert_array_equal(
        pictures(tmp_path)["test/transformed", 0],
        row_of(np.zeros_like(TEST.images)),
    )

    versions = fake_purified(
        TRAINING, config, masks_per_image=4, seed=0, cache_dir="", progress=None
    )
    drawn = []
    for image, label in zip(*map(np.concatenate, zip(*fed, strict=True)), strict=True):
        masks, indices = np.nonzero((versions == image).all(axis=(2, 3, 4)))
        assert len(set(masks)) == 1
        assert label in TRAINING.labels[indices]
        drawn.append(masks[0])
    share = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(share, 0.25, atol=0.12)

    other = dataclasses.replace(settings, defense=SPLICConfig(rank=3))
    with pytest.raises(UserError, match="--rank=2, not 3"):
        train(other, TRAINING, TEST, tmp_path)


def test_older_runs_go_on(trained, run_folder: pathlib.Path) -> None:
    run = json.loads((run_folder / "run.json").read_text())
    for name in ("compute_dtype", "adversarial", "keep_range"):
        del run["settings"][name]
    (run_folder / "run.json").write_text(json.dumps(run))
    shutil.rmtree(run_folder / "checkpoints/3")
    assert_same(train(SETTINGS, TRAINING, TEST, run_folder), trained[0])


def test_older_records_are_of_splic() -> None:
    defense = SPLICConfig(rank=3)
    record = {"model": "resnet18", "defense": dataclasses.asdict(defense)}
    del record["defense"]["mask_design"]
    settings = TrainSettings.from_dict(record)
    assert settings == TrainSettings(model="resnet18", defense=defense)
    # And as one is written now.
    settings = dataclasses.replace(
        settings,
        defense=BitDepthConfig(bits=2),
        adversarial=Ensemble(networks=("a",)),
    )
    record = json.loads(json.dumps(settings.as_dict()))
    assert record["defense"]["method"] == "bit_depth"
    assert TrainSettings.from_dict(record) == settings


@pytest.mark.slow
def test_ensemble_behind_a_defense_resumes_bit_for_bit(trained, tmp_path) -> None:
    """Attacks and transforms in the step follow from the seed and the step alone."""
    network = str(trained[1])
    settings = dataclasses.replace(
        SETTINGS,
        epochs=2,
        defense=CropRescaleConfig(),
        adversarial=Ensemble(epsilon=0.02, networks=(network,)),
    )
    whole = train(settings, TRAINING, TEST, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "2")
    resumed = train(settings, TRAINING, TEST, tmp_path / "cut")
    assert_same(resumed, whole)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert rows(tmp_path / "whole")[-1]["test_accuracy"] > 0.7
    assert resumed.settings == settings
    assert not (tmp_path / "whole" / "purified").exists()

    found = pictures(tmp_path / "whole")
    tags = [f"training/{kind}" for kind in ("augmented", "attacked")]
    steps = [("test/transformed", step) for step in (9, 18)]
    assert set(found) == {
        ("test/clean", 0),
        *steps,
        *((tag, step) for tag in tags for step in (9, 18)),
    }
    seen = transform(
        TEST.images / np.float32(255),
        jax.random.key(settings.seed + 1),
        settings.defense,
    )
    for step in steps:
        np.testing.assert_allclose(found[step] / 255, row_of(seen), atol=0.51 / 255)
    for step in (9, 18):
        augmented, attacked = (found[tag, step].astype(int) for tag in tags)
        moved = np.abs(attacked - augmented)
        assert 0.3 < (moved > 0).mean() and moved.max() <= round(0.02 * 255)
    # What the interrupted run showed is shown again.
    again = pictures(tmp_path / "cut")
    assert all((again[name] == row).all() for name, row in found.items())

    refused = {
        "--adversarial=ensemble, not pgd": {"adversarial": PGD()},
        "--option=ensemble.epsilon=0.02, not 0.01": {
            "adversarial": dataclasses.replace(settings.adversarial, epsilon=0.01)
        },
        "--defense=crop_rescale, not bit_depth": {"defense": BitDepthConfig()},
    }
    for words, change in refused.items():
        with pytest.raises(UserError, match=words):
            other = dataclasses.replace(settings, **change)
            train(other, TRAINING, TEST, tmp_path / "cut")

    # The same folder with another network in it.
    run = json.loads((tmp_path / "cut" / "run.json").read_text())
    run["ensemble"] = ["0" * 64]
    (tmp_path / "cut" / "run.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match="--ensemble=networks of checksums 00000000, "):
        train(settings, TRAINING, TEST, tmp_path / "cut")


def test_networks_of_other_images_make_no_ensemble(trained, tmp_path) -> None:
    recipe = Ensemble(networks=(str(trained[1]),))
    settings = dataclasses.replace(SETTINGS, adversarial=recipe)
    larger = np.zeros((4, 16, 16, 3), np.uint8)
    for other in (
        dataclasses.replace(TRAINING, class_names=("light", "dark")),
        dataclasses.replace(TRAINING, images=larger, labels=TRAINING.labels[:4]),
    ):
        with pytest.raises(UserError, match="--ensemble=.*run is a network for other"):
            train(settings, other, TEST, tmp_path / "run")
    missing = dataclasses.replace(settings, adversarial=Ensemble(networks=("nowhere",)))
    with pytest.raises(UserError, match="nowhere holds no training run"):
        train(missing, TRAINING, TEST, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_codes_are_trained_on_and_attacked_in_the_step(tmp_path: pathlib.Path) -> None:
    settings = dataclasses.replace(
        SETTINGS, defense=ThermometerConfig(levels=4), adversarial=Fast()
    )
    result = train(settings, TRAINING, TEST, tmp_path)
    kernel = result.variables["stem"]["kernel"][...]
    assert kernel.shape == (3, 3, 12, 4)
    assert rows(tmp_path)[-1]["test_accuracy"] > 0.9

    codes = transform(TEST.images / 255.0, jax.random.key(0), settings.defense)
    logits = models.logits_function(result.graphdef, result.variables)(codes)
    accuracy = np.mean(np.argmax(logits, axis=-1) == TEST.labels)
    assert rows(tmp_path)[-1]["test_accuracy"] == pytest.approx(accuracy)


def test_versions_of_an_image_keep_their_own_share(tmp_path, monkeypatch) -> None:
    asked = []

    def record(dataset, config, **options):
        asked.append((len(dataset.images), config.keep_probability, options))
        return fake_purified(dataset, config, **options)

    def stop(*_, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "purified_dataset", record)
    monkeypatch.setattr(loop, "make_train_step", stop)
    settings = dataclasses.replace(
        SETTINGS,
        defense=SPLICConfig(keep_probability=0.5),
        masks_per_image=3,
        keep_range=(0.3, 0.7),
    )
    with pytest.raises(KeyboardInterrupt):
        train(settings, TRAINING, TEST, tmp_path)
    counts, kept, options = zip(*asked, strict=True)
    assert counts == (72, 72, 72, 30)
    np.testing.assert_allclose(kept, [0.3, 0.5, 0.7, 0.5])
    assert len({each["seed"] for each in options}) == 4
    assert all(each["masks_per_image"] == 1 for each in options)


@pytest.mark.parametrize(
    "defense, words",
    [
        (SPLICConfig(rank=9), "rank=9 exceeds"),
        (QuiltingConfig(patch_size=9), "at least 9 x 9 pixels"),
    ],
)
def test_defenses_that_do_not_fit_are_named(defense, words: str, tmp_path) -> None:
    settings = dataclasses.replace(SETTINGS, defense=defense, adversarial=Fast())
    with pytest.raises(UserError, match=words):
        train(settings, TRAINING, TEST, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def two_cues(count: int, seed: int) -> Dataset:
    """Stripes that always tell the class, and a brightness that does 4 of 5 times.

    The stripes are within an attacker's reach, the brightness is not.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.int32)
    light = np.where(rng.random(count) < 0.8, labels, 1 - labels) * 80 + 88
    rows, columns = np.indices((8, 8)) % 2 * 14 - 7
    images = np.where(labels[:, None, None] == 1, rows, columns) + light[:, None, None]
    images = (images + rng.normal(0, 2, images.shape)).round().astype(np.uint8)
    images = np.repeat(images[..., None], 3, axis=-1)
    return Dataset("shapes", images, labels, ("dark", "bright"))


@pytest.mark.slow
def test_fast_training_withstands_pgd(tmp_path: pathlib.Path) -> None:
    training, test = two_cues(256, 0), two_cues(200, 1)
    attack = jax.jit(
        lambda logits_function, images, labels: pgd(
            lambda images, key: logits_function(images),
            images,
            labels,
            jax.random.key(0),
        )
    )
    clean, attacked = {}, {}
    for name in ("none", "fast"):
        settings = TrainSettings(
            epochs=30, batch_size=32, adversarial=RECIPES[name], learning_rate=0.1
        )
        result = train(settings, training, test, tmp_path / name, checkpoint_every=30)
        logits_function = models.logits_function(result.graphdef, result.variables)
        images = test.images.astype(np.float32) / 255
        success = attack(logits_function, images, test.labels).success
        clean[name] = rows(tmp_path / name)[-1]["test_accuracy"]
        attacked[name] = 1 - success.mean()
    assert clean["none"] > clean["fast"] > 0.7
    assert attacked["fast"] > 0.7 > 0.6 > attacked["none"]


def test_bfloat16_is_for_the_network_alone(tmp_path: pathlib.Path) -> None:
    settings = dataclasses.replace(SETTINGS, compute_dtype="bfloat16")
    result = train(settings, TRAINING, TEST, tmp_path)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(result.variables)} == {
        "float32"
    }
    assert rows(tmp_path)[-1]["test_accuracy"] > 0.9

    # One step: near that of float32, not the same, and of its dtypes.
    states = {}
    graphdef, variables = models.split(models.create("small", 2, 0))
    for dtype in ("float32", "bfloat16"):
        parameters, statistics = nnx.split_state(variables, nnx.Param, ...)
        parameters = jax.tree.map(jnp.copy, parameters)
        statistics = jax.tree.map(jnp.copy, statistics)
        optimizer, _ = make_optimizer(SETTINGS, 5)
        state = TrainState(
            jnp.int32(0), parameters, statistics, optimizer.init(parameters)
        )
        step = make_train_step(graphdef, optimizer, True, dtype)
        key = jax.random.key(0)
        states[dtype] = step(state, TRAINING.images[:8], TRAINING.labels[:8], key)
    for exact, near in zip(*map(jax.tree.leaves, states.values()), strict=True):
        assert exact.dtype == near.dtype
        np.testing.assert_allclose(exact, near, rtol=0.1, atol=0.02)
    losses = [float(metrics.loss) for _, metrics in states.values()]
    assert losses[0] != losses[1]


def test_optimizer_is_the_formula() -> None:
    # Sutskever et al. 2013 as PyTorch writes it: v = m v + g, then p -= lr (g + m v).
    settings = dataclasses.replace(SETTINGS, momentum=0.8, weight_decay=0.01)
    optimizer, _ = make_optimizer(settings, total_steps=5)
    rng = np.random.default_rng(0)
    parameters = {"w": jnp.asarray(rng.normal(size=4), jnp.float32)}
    state = optimizer.init(parameters)
    w, velocity = np.asarray(parameters["w"], np.float64), np.zeros(4)
    for step in range(5):
        gradient = rng.normal(size=4)
        updates, state = optimizer.update(
            {"w": jnp.asarray(gradient, jnp.float32)}, state, parameters
        )
        parameters = jax.tree.map(jnp.add, parameters, updates)
        decayed = gradient + 0.01 * w
        velocity = 0.8 * velocity + decayed
        rate = 0.05 * (1 + np.cos(np.pi * step / 5)) / 2
        w = w - rate * (decayed + 0.8 * velocity)
        np.testing.assert_allclose(parameters["w"], w, rtol=1e-5)


def test_digits_are_not_mirrored(tmp_path, monkeypatch) -> None:
    asked = {}

    def stop(graphdef, optimizer, flips, compute_dtype, **options):
        asked[name] = flips
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "make_train_step", stop)
    for name in ("svhn_cropped", "cifar10"):
        dataset = dataclasses.replace(TRAINING, name=name)
        with pytest.raises(KeyboardInterrupt):
            train(SETTINGS, dataset, TEST, tmp_path / name)
    assert asked == {"svhn_cropped": False, "cifar10": True}


@pytest.mark.parametrize("count", [1, 255, 256, 300])
def test_accuracy_counts_each_image_once(count: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 4, (count, 1, 1, 3), dtype=np.uint8)
    labels = rng.integers(0, 4, count).astype(np.int32)

    @jax.tree_util.Partial
    def logits_function(images):
        return jax.nn.one_hot(jnp.round(images[:, 0, 0, 0] * 255).astype(int), 4)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "logits_function", lambda *_: logits_function)
        accuracy = loop.accuracy_of(None, None, images, labels)
    assert accuracy == np.mean(images[:, 0, 0, 0] == labels)


def test_small_sets_make_one_batch(tmp_path: pathlib.Path) -> None:
    settings = dataclasses.replace(SETTINGS, epochs=1)
    five, three = dataset_of(5, 0), dataset_of(3, 1)
    result = train(settings, five, three, tmp_path)
    (row,) = rows(tmp_path)
    assert row["step"] == 1
    # The step was over all five, in the order of the batch.
    (batch,) = loading.batches(5, 5, settings.seed, 0, num_steps=1)
    assert sorted(batch.tolist()) == list(range(5))
    key = jax.random.fold_in(
        jax.random.split(jax.random.key(settings.seed))[1], jnp.int32(0)
    )
    model = models.create("small", 2, settings.seed)
    inputs = augment(jnp.asarray(five.images[batch]), key, True)
    seen = model(inputs, train=True)
    chances = jax.nn.log_softmax(seen)[np.arange(5), five.labels[batch]]
    assert row["loss"] == pytest.approx(-float(chances.mean()), rel=1e-4)
    logits = models.logits_function(result.graphdef, result.variables)
    right = np.argmax(logits(three.images / 255), axis=1) == three.labels
    assert row["test_accuracy"] == pytest.approx(right.mean())


def test_diverged_run_stops(tmp_path: pathlib.Path) -> None:
    settings = dataclasses.replace(SETTINGS, learning_rate=1e30)
    with pytest.raises(UserError, match="--learning_rate"):
        train(settings, TRAINING, TEST, tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_checkpoint_every(tmp_path: pathlib.Path, monkeypatch) -> None:
    saved = []
    monkeypatch.setattr(loop, "_save", lambda folder, epoch, state: saved.append(epoch))
    monkeypatch.setattr(checkpoints, "load_checkpoint", lambda folder: None)
    settings = dataclasses.replace(SETTINGS, epochs=5)
    train(settings, TRAINING, TEST, tmp_path, checkpoint_every=2)
    assert saved == [2, 4, 5]


def recording_steps(monkeypatch, after=lambda step: None) -> dict[int, list]:
    """The leaves of the state after each step of the trainings to come, copied."""
    states, make_train_step = {}, loop.make_train_step

    def recording(*arguments, **options):
        step = make_train_step(*arguments, **options)

        def recorded(*inputs):
            state, metrics = step(*inputs)
            leaves = [np.array(leaf, copy=True) for leaf in jax.tree.leaves(state)]
            states[int(state.step)] = leaves
            after(int(state.step))
            return state, metrics

        return recorded

    monkeypatch.setattr(loop, "make_train_step", recording)
    return states


def saved_state(folder: pathlib.Path, epoch: int) -> list[np.ndarray]:
    """The leaves of the state in a checkpoint."""
    graphdef, variables = models.split(models.create("small", 2, 0))
    parameters, statistics = nnx.split_state(variables, nnx.Param, ...)
    optimizer, _ = make_optimizer(SETTINGS, 1)
    like = TrainState(jnp.int32(0), parameters, statistics, optimizer.init(parameters))
    return jax.tree.leaves(loop._restore(folder, epoch, like))


def test_trains_on_during_a_slow_save(trained, tmp_path, monkeypatch) -> None:
    """A checkpoint holds its own step although that state was donated long before."""
    ahead, order = {9: threading.Event(), 18: threading.Event()}, []
    save = checkpoints.save

    def slow(folder, epoch, **trees):
        if epoch < 3:  # until the epoch after it has ended
            assert ahead[9 * epoch].wait(60), "the training waits for the save"
        save(folder, epoch, **trees)
        order.append(f"saved {epoch}")

    def after(step):
        if step % 9 == 0:
            order.append(f"trained {step // 9}")
            if step > 9:
                ahead[step - 9].set()

    states = recording_steps(monkeypatch, after)
    monkeypatch.setattr(checkpoints, "save", slow)
    monkeypatch.setattr(checkpoints, "KEPT", 3)
    result = train(SETTINGS, TRAINING, TEST, tmp_path)
    assert order.index("trained 2") < order.index("saved 1")
    assert order.index("trained 3") < order.index("saved 2")
    assert order[-1] == "saved 3"
    for epoch in (1, 2, 3):
        for found, own in zip(
            saved_state(tmp_path, epoch), states[9 * epoch], strict=True
        ):
            assert found.dtype == own.dtype
            np.testing.assert_array_equal(found, own, strict=True)
    assert_same(result, trained[0])


def test_ctrl_c_waits_for_the_save(trained, tmp_path, monkeypatch) -> None:
    begun, save = threading.Event(), checkpoints.save

    def slow(*arguments, **trees):
        begun.set()
        threading.Event().wait(0.5)
        save(*arguments, **trees)

    def interrupt(step):
        if step == 10:
            assert begun.wait(60)
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", slow)
    with monkeypatch.context() as patch:
        recording_steps(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(SETTINGS, TRAINING, TEST, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert_same(train(SETTINGS, TRAINING, TEST, tmp_path), trained[0])


@pytest.mark.parametrize("epochs", [1, 9])
def test_failing_save_is_one_line(tmp_path: pathlib.Path, epochs: int) -> None:
    """After the last epoch, and long before it."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoints").write_text("no folder")
    command = ["train.train", "--num_train=8", "--num_test=8", "--batch_size=8"]
    command += [f"--epochs={epochs}", f"--out={folder}"]
    result = binaries.run(*command)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: cannot write checkpoint 1 to {folder}: ")
    assert len(rows(folder)) < 9
    assert "done; next" not in result.stdout


def test_error_of_a_save_comes_as_it_was_raised(tmp_path, monkeypatch) -> None:
    error = RuntimeError("of the saving thread")

    def fail(*arguments, **trees):
        raise error

    monkeypatch.setattr(checkpoints, "save", fail)
    with pytest.raises(RuntimeError) as found:
        train(SETTINGS, TRAINING, TEST, tmp_path)
    assert found.value is error
    # Also where the training was interrupted meanwhile.
    with pytest.raises(RuntimeError) as found:
        train(SETTINGS, TRAINING, TEST, tmp_path, progress=StopAfter(1))
    assert found.value is error
    assert isinstance(error.__context__, KeyboardInterrupt)


def flip_byte(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def largest(folder: pathlib.Path) -> pathlib.Path:
    files = [path for path in folder.glob("**/*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


DAMAGES = {
    "missing folder": (lambda run: shutil.rmtree(run), "no training run"),
    "no run.json": (lambda run: (run / "run.json").unlink(), "no training run"),
    "cut run.json": (
        lambda run: (run / "run.json").write_text('{"format": 1, "settings"'),
        "run.json is damaged",
    ),
    "empty run.json": (
        lambda run: (run / "run.json").write_text('{"format": 1}'),
        "run.json is damaged",
    ),
    "binary run.json": (
        lambda run: (run / "run.json").write_bytes(b"\xff\xfe\x00"),
        "run.json is damaged",
    ),
    "no checkpoint": (
        lambda run: shutil.rmtree(run / "checkpoints"),
        "no checkpoint yet",
    ),
    "changed weights": (
        lambda run: flip_byte(largest(run / "checkpoints/3/model")),
        "3 is damaged",
    ),
    "cut weights": (
        lambda run: largest(run / "checkpoints/3/model").write_bytes(b""),
        "3 is damaged",
    ),
    "missing weights": (
        lambda run: largest(run / "checkpoints/3/model").unlink(),
        "3 is damaged",
    ),
    "no checksum": (
        lambda run: (run / "checkpoints/3/sha256").unlink(),
        "3 is damaged",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line(run_folder, capfd, damage: str) -> None:
    do, words = DAMAGES[damage]
    do(run_folder)
    with pytest.raises(UserError) as error:
        load_checkpoint(run_folder)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_another_model_does_not_fit(run_folder, monkeypatch) -> None:
    monkeypatch.setitem(models.STAGES, "small", ((4, 1), (8, 1)))
    with pytest.raises(UserError, match="does not fit") as error:
        load_checkpoint(run_folder)
    assert "\n" not in str(error.value)


def test_goes_back_to_the_checkpoint_before(trained, run_folder) -> None:
    shutil.rmtree(run_folder / "checkpoints/3")
    assert_same(train(SETTINGS, TRAINING, TEST, run_folder), trained[0])


@pytest.mark.parametrize(
    "field, value",
    [
        ("model", "vgg"),
        ("epochs", 0),
        ("batch_size", 0),
        ("masks_per_image", 2),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("seed", -1),
        ("compute_dtype", "float16"),
        ("adversarial", "pgd"),
        ("keep_range", (0.4, 0.6)),
        ("model", "small_blur"),
    ],
)
def test_settings_without_sense_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field} "):
        TrainSettings(**{field: value})


@pytest.mark.parametrize(
    "values, words",
    [
        ({"masks_per_image": 2, "adversarial": PGD()}, "masks_per_image .* anew"),
        ({"masks_per_image": 2, "defense": BitDepthConfig()}, "masks_per_image"),
        ({"keep_range": (0.4, 0.6)}, "keep_range .* masks_per_image is 1"),
        ({"masks_per_image": 2, "keep_range": (0.0, 1.0)}, "keep_range .* in"),
        ({"masks_per_image": 2, "keep_range": (0.2, 0.4)}, "keep_range .* 0.5, for"),
        (
            {
                "masks_per_image": 2,
                "keep_range": (0.4, 0.6),
                "defense": QuiltingConfig(),
            },
            "keep_range .* no pixels",
        ),
        ({"defense": "splic"}, "config must be the settings of a transform"),
    ],
)
def test_settings_that_contradict_are_named(values: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainSettings(**{"defense": SPLICConfig(), **values})


# The binary. Its flags are global to a process, so these tests start their own.

FLAG_CASES = {
    "": "defense=None, masks_per_image=1, epochs=15",
    "--epochs=3 --model=resnet18 --seed=7": "model='resnet18'",
    "--defense=splic --rank=5 --norank_cut": "rank=5",
    "--defense=splic --splic_step=printed": "pixel_scale=255.0",
    "--defense=splic --splic_step=printed --splic_pixel_scale=2": "pixel_scale=2.0",
    "--compute_dtype=bfloat16": "compute_dtype='bfloat16'",
    "--texture_bias=0.25": "texture_bias=0.25",
    "--dataset=cifar10": "texture_bias=None",
    "--dataset=cifar10 --texture_bias=0.25": "error: --texture_bias is for shapes",
    "--defense=splic_no_tv --rank=5": "tv_weight=0.0",
    "--defense=usvt --option=usvt.keep_probability=0.3": "keep_probability=0.3",
    "--defense=usvt --masks_per_image=2 --mask_start=.2 --mask_end=.6": "(0.2, 0.6)",
    "--mask_start=0.2 --mask_end=0.6": "error: --mask_start needs",
    "--defense=usvt --mask_start=0.2": "error: --mask_start and --mask_end",
    "--adversarial=pgd": "adversarial=PGD(epsilon=0.03137",
    "--adversarial=pgd --epsilon=51": "adversarial=PGD(epsilon=0.2,",
    "--adversarial=trades --option=trades.beta=1": "beta=1)",
    "--adversarial=tla-sa": "anchor='clean'",
    "--adversarial=tla --option=tla.negatives=semi-hard": "negatives='semi-hard'",
    "--adversarial=ensemble --ensemble=a,b": "networks=('a', 'b')",
    "--model=small_denoise": "model='small_denoise'",
    "--epsilon=4": "error: --epsilon needs --adversarial",
    "--ensemble=a": "error: --ensemble needs --adversarial=ensemble",
    "--adversarial=pgd --option=trades.beta=1": "needs --adversarial=trades",
    "--adversarial=pgd --option=pgd.steps=0": "error: --option=pgd.steps=0: steps",
    "--option=usvt.keep_probability=0.3": "needs --defense=usvt",
    "--defense=splic --adversarial=pgd --masks_per_image=2": "error: --masks_per_image",
    "--rank=5": "error: --rank needs --defense=splic",
    "--masks_per_image=2": "error: --masks_per_image must be 1",
    "--momentum=2": "error: --momentum must be in [0, 1), got 2.0",
    "--defense=splic --keep_probability=0": "error: --keep_probability must be",
    "--defense=splic --splic_max_steps=0": "error: --splic_max_steps must be",
}


@pytest.mark.parametrize("case", FLAG_CASES)
def test_flags_make_the_settings(case: str) -> None:
    with binaries.only_flags_of(binary):
        flags.FLAGS(["train", *case.split()])
        try:
            found = str(binary.settings_from_flags())
        except UserError as error:
            found = f"error: {error}"
    assert FLAG_CASES[case] in found


def test_binary_trains_then_refuses(tmp_path: pathlib.Path) -> None:
    command = ["train.train", "--num_train=40", "--num_test=20", "--epochs=1"]
    command += ["--batch_size=20", f"--out={tmp_path / 'run'}"]
    command += [f"--export={tmp_path / 'small.safetensors'}"]
    result = binaries.start(*command)
    assert result.returncode == 0, result.stderr
    assert "epoch 1/1: loss " in result.stdout
    assert load_run_settings(tmp_path / "run")["batch_size"] == 20
    assert [row["step"] for row in rows(tmp_path / "run")] == [2]
    exported = read_weights(tmp_path / "small.safetensors").metadata["network"]
    assert json.loads(exported)["settings"] == load_run_settings(tmp_path / "run")

    result = binaries.run(*command, "--learning_rate=0.3")
    assert result.returncode == 1
    assert "--learning_rate=0.1, not 0.3" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def load_run_settings(folder: pathlib.Path) -> dict:
    return json.loads((folder / "run.json").read_text())["settings"]


def test_starts_from_given_weights(trained, tmp_path):
    """One step at a rate of nearly nothing leaves them as they are."""
    start = trained[0].variables
    settings = dataclasses.replace(
        SETTINGS,
        epochs=1,
        batch_size=72,
        learning_rate=1e-30,
        weight_decay=0.0,
        initial_weights=checkpoints.weights_checksum(start),
    )
    done = train(settings, TRAINING, TEST, tmp_path / "on", initial=start)
    parameters, given = (
        nnx.filter_state(x, nnx.Param) for x in (done.variables, start)
    )
    assert jax.tree.all(jax.tree.map(jnp.array_equal, parameters, given))
    # They are those of the run: another start is another run.
    with pytest.raises(UserError, match="--init"):
        train(SETTINGS, TRAINING, TEST, tmp_path / "on")
    with pytest.raises(ValueError, match="initial_weights"):
        train(SETTINGS, TRAINING, TEST, tmp_path / "other", initial=start)


def test_weights_of_another_network_are_refused_in_one_line(trained, tmp_path):
    start = trained[0].variables
    three = dataclasses.replace(TRAINING, class_names=("dark", "bright", "grey"))
    settings = dataclasses.replace(
        SETTINGS, initial_weights=checkpoints.weights_checksum(start)
    )
    with pytest.raises(UserError, match="not of small for these images and classes"):
        train(settings, three, three, tmp_path / "run", initial=start)
