"""Tests of train/train.py and train/checkpoints.py."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from splic_jax import SPLICConfig
from train import models, train
from train.checkpoints import LoadedModel, load_checkpoint
from train.data import Dataset
from train.errors import UserError
from train.progress import Progress
from train.settings import TrainSettings

ROOT = pathlib.Path(train.__file__).parents[1]
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
    return train.train(SETTINGS, TRAINING, TEST, folder), folder


@pytest.fixture
def run_folder(trained, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the trained run, to be damaged."""
    return shutil.copytree(trained[1], tmp_path / "run")


def rows(folder: pathlib.Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


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
    assert list((folder / "tensorboard").glob("events.*"))
    run = json.loads((folder / "run.json").read_text())
    assert run["class_names"] == ["dark", "bright"]
    assert run["versions"]["jax"] == jax.__version__


def test_resumes_bit_for_bit(trained, tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train.train(SETTINGS, TRAINING, TEST, tmp_path, progress=StopAfter(1))
    # A line of the epoch that was under way, and one that was cut off.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 18, "epoch": 2, "loss": 0}\n{"step": 2')
    (tmp_path / "checkpoints" / "unfinished" / "model").mkdir(parents=True)
    resumed = train.train(SETTINGS, TRAINING, TEST, tmp_path)
    assert_same(resumed, trained[0])
    assert rows(tmp_path) == rows(trained[1])
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_finished_run_is_loaded(trained, run_folder: pathlib.Path) -> None:
    (run_folder / "metrics.jsonl").unlink()
    again = train.train(SETTINGS, TRAINING, TEST, run_folder)
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
    ],
)
def test_other_settings_are_refused(run_folder, change: dict, words: str) -> None:
    before = (run_folder / "run.json").read_bytes()
    with pytest.raises(UserError) as error:
        settings = dataclasses.replace(SETTINGS, **change)
        train.train(settings, TRAINING, TEST, run_folder)
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
        train.train(SETTINGS, dataset, TEST, run_folder)


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
    make_train_step = train.make_train_step

    def recording(*arguments):
        step = make_train_step(*arguments)

        def recorded(state, images, labels, key):
            fed.append((images, labels))
            return step(state, images, labels, key)

        return recorded

    monkeypatch.setattr(train, "purified_dataset", record)
    monkeypatch.setattr(train, "make_train_step", recording)
    config = SPLICConfig(rank=2)
    settings = dataclasses.replace(SETTINGS, defense=config, masks_per_image=4)
    result = train.train(settings, TRAINING, TEST, tmp_path)
    assert seen == {72: (config, 4), 30: (config, 1)}
    assert result.settings.defense == config

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
        train.train(other, TRAINING, TEST, tmp_path)


def test_older_runs_go_on(trained, run_folder: pathlib.Path) -> None:
    run = json.loads((run_folder / "run.json").read_text())
    del run["settings"]["compute_dtype"]
    (run_folder / "run.json").write_text(json.dumps(run))
    shutil.rmtree(run_folder / "checkpoints/3")
    assert_same(train.train(SETTINGS, TRAINING, TEST, run_folder), trained[0])


def test_bfloat16_is_for_the_network_alone(tmp_path: pathlib.Path) -> None:
    settings = dataclasses.replace(SETTINGS, compute_dtype="bfloat16")
    result = train.train(settings, TRAINING, TEST, tmp_path)
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
        optimizer, _ = train.make_optimizer(SETTINGS, 5)
        state = train.TrainState(
            jnp.int32(0), parameters, statistics, optimizer.init(parameters)
        )
        step = train.make_train_step(graphdef, optimizer, True, dtype)
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
    optimizer, _ = train.make_optimizer(settings, total_steps=5)
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


@pytest.mark.parametrize("flips", [False, True])
def test_augmentation_shifts_and_mirrors(flips: bool) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (8, 6, 3), dtype=np.uint8)
    batch = np.repeat(image[None], 200, axis=0)
    result = train.augment(jnp.asarray(batch), jax.random.key(0), flips)
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


def test_digits_are_not_mirrored(tmp_path, monkeypatch) -> None:
    asked = {}

    def stop(graphdef, optimizer, flips, compute_dtype):
        asked[name] = flips
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "make_train_step", stop)
    for name in ("svhn_cropped", "cifar10"):
        dataset = dataclasses.replace(TRAINING, name=name)
        with pytest.raises(KeyboardInterrupt):
            train.train(SETTINGS, dataset, TEST, tmp_path / name)
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
        accuracy = train.accuracy_of(None, None, images, labels)
    assert accuracy == np.mean(images[:, 0, 0, 0] == labels)


def test_small_sets_make_one_batch(tmp_path: pathlib.Path) -> None:
    settings = dataclasses.replace(SETTINGS, epochs=1)
    train.train(settings, dataset_of(5, 0), dataset_of(3, 1), tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == [1]


def test_diverged_run_stops(tmp_path: pathlib.Path) -> None:
    settings = dataclasses.replace(SETTINGS, learning_rate=1e30)
    with pytest.raises(UserError, match="--learning_rate"):
        train.train(settings, TRAINING, TEST, tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_checkpoint_every(tmp_path: pathlib.Path, monkeypatch) -> None:
    saved = []
    monkeypatch.setattr(
        train, "_save", lambda folder, epoch, state: saved.append(epoch)
    )
    monkeypatch.setattr(train.checkpoints, "load_checkpoint", lambda folder: None)
    settings = dataclasses.replace(SETTINGS, epochs=5)
    train.train(settings, TRAINING, TEST, tmp_path, checkpoint_every=2)
    assert saved == [2, 4, 5]


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
    assert_same(train.train(SETTINGS, TRAINING, TEST, run_folder), trained[0])


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
    ],
)
def test_settings_without_sense_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field} "):
        TrainSettings(**{field: value})


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
    "--rank=5": "error: --rank needs --defense=splic",
    "--masks_per_image=2": "error: --masks_per_image must be 1",
    "--momentum=2": "error: --momentum must be in [0, 1), got 2.0",
    "--defense=splic --keep_probability=0": "error: --keep_probability must be",
    "--defense=splic --splic_max_steps=0": "error: --splic_max_steps must be",
}

PRINT_SETTINGS = """
import sys
from absl import flags
from absl.testing import flagsaver
from train import train
from train.errors import UserError
train.define_flags()
for case in sys.argv[1:]:
    with flagsaver.flagsaver():
        flags.FLAGS(["train", *case.split()])
        try:
            print(train.settings_from_flags())
        except UserError as error:
            print("error:", error)
"""


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_flags_make_the_settings() -> None:
    result = python("-c", PRINT_SETTINGS, *FLAG_CASES)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for (case, words), line in zip(FLAG_CASES.items(), lines, strict=True):
        assert words in line, case


def test_binary_trains_then_refuses(tmp_path: pathlib.Path) -> None:
    command = ["-m", "train.train", "--num_train=40", "--num_test=20", "--epochs=1"]
    command += ["--batch_size=20", f"--out={tmp_path / 'run'}"]
    result = python(*command)
    assert result.returncode == 0, result.stderr
    assert "epoch 1/1: loss " in result.stdout
    assert load_run_settings(tmp_path / "run")["batch_size"] == 20
    assert [row["step"] for row in rows(tmp_path / "run")] == [2]

    result = python(*command, "--learning_rate=0.3")
    assert result.returncode == 1
    assert "--learning_rate=0.1, not 0.3" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def load_run_settings(folder: pathlib.Path) -> dict:
    return json.loads((folder / "run.json").read_text())["settings"]
