"""Networks of a user's own through `evaluate`, in one command."""

import pathlib

import binaries
import given_networks
import numpy as np
import pytest
from networks import import_or_skip
from safetensors.numpy import save_file

from train.models import cifar_resnet
from train.networks.classifier import from_one
from train.records.storing import read_record
from train.utils.errors import UserError

FILE = pathlib.Path(given_networks.__file__)
LOGITS = (f"--network={FILE}:logits",)
COUNT = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    given_networks.write_cifar(folder, "test_batch", COUNT)
    np.savez(folder / "weights.npz", **given_networks.WEIGHTS)
    save_file(given_networks.WEIGHTS, folder / "weights.safetensors")
    shapes = cifar_resnet.shapes(1, 10)
    arrays = {name: np.full(x, 0.01, np.float32) for name, x in shapes.items()}
    np.savez(folder / "resnet8.npz", **arrays)
    del arrays["conv1.weight"]
    np.savez(folder / "short.npz", **arrays)
    return folder


def evaluate(folder, *flags):
    common = ("--dataset=cifar10", "--data_dir=.", "--images_note=greys")
    common += ("--defenses=none", "--nosoundness")
    common += ("--threats=clean,white-box", "--attacks=fgsm")
    return binaries.run("train.evaluate", *common, *flags, cwd=folder)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("logits", None),
        ("plain", "weights.safetensors"),
        ("of_nnx", "weights.npz"),
        ("of_linen", "weights.npz"),
        ("of_equinox", "weights.npz"),
    ],
)
def test_each_kind_of_network_is_evaluated(folder, schema_errors, name, weights):
    if name == "of_equinox":
        import_or_skip("equinox")
    flags = [f"--network={FILE}:{name}", f"--out={name}.json"]
    flags += [f"--weights={weights}"] if weights else []
    done = evaluate(folder, *flags)
    assert done.returncode == 0, done.stderr
    record = read_record(folder / f"{name}.json")
    assert schema_errors(record) == []
    assert record["dataset"]["images"] == "greys"
    assert record["network"]["function"] == f"{FILE.name}:{name}"
    assert ("weights_sha256" in record["network"]) == bool(weights)
    assert record["clean_accuracy"] == {"count": 20, "correct": 20, "accuracy": 1.0}
    clean, attacked = record["cells"]
    assert clean["accuracy"] == 1
    # Levels are 25/255 apart, so that 8/255 turns none over.
    assert attacked["accuracy"] == 1
    assert f"network {FILE.name}:{name}" in done.stdout


@pytest.mark.parametrize("surrogate", ["logits", "plain,weights.npz"])
def test_a_surrogate_is_any_network(folder, schema_errors, surrogate):
    flags = (f"--network={FILE}:logits", f"--surrogate={FILE}:{surrogate}")
    out = f"--out=behind {surrogate}.json"
    done = evaluate(folder, *flags, out, "--threats=black-box")
    assert done.returncode == 0, done.stderr
    record = read_record(folder / f"behind {surrogate}.json")
    assert schema_errors(record) == []
    name, comma, _ = surrogate.partition(",")
    assert record["surrogate"]["function"] == f"{FILE.name}:{name}"
    assert ("weights_sha256" in record["surrogate"]) == bool(comma)
    assert [cell["threat"] for cell in record["cells"]] == ["black-box"]


def test_one_value_names_any_network(folder):
    found = from_one(str(folder / "resnet8.npz"), "--surrogate=it")
    assert found.record["model"] == "resnet8" and found.name == "--surrogate=it"
    with pytest.raises(UserError, match="holds no training run"):
        from_one(str(folder), "--surrogate=it")


def test_a_record_is_of_one_network(folder):
    flags = (f"--network={FILE}:plain", "--out=one.json")
    assert evaluate(folder, *flags, "--weights=weights.npz").returncode == 0
    again = evaluate(folder, *flags, "--weights=weights.npz")
    assert "2 cells are done from before" in again.stdout
    before = (folder / "one.json").read_bytes()
    other = {**given_networks.WEIGHTS, "unused": np.zeros(1)}
    np.savez(folder / "other.npz", **other)
    done = evaluate(folder, *flags, "--weights=other.npz")
    assert done.returncode == 1
    assert "measured with another network.weights_sha256" in done.stderr
    assert (folder / "one.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give --checkpoint, the folder of a training run, or --network"),
        (("--weights=weights.npz",), "holds neither a network that `train --export`"),
        (
            ("--weights=resnet8.npz", "--model=resnet20"),
            "is of resnet8, not of --model",
        ),
        (("--model=resnet20",), "--model is the architecture of --weights"),
        (("--weights=resnet8.npz", "--checkpoint=run"), "one of them"),
        (("--weights=short.npz",), "is no CIFAR ResNet: the weights lack conv1.weight"),
        (("--weights=resnet8.npz",), "clean images, which is chance"),
        ((f"--network={FILE}:plain", "--checkpoint=run"), "one of them"),
        ((f"--network={FILE}:plain",), "names a factory"),
        ((f"--network={FILE}:plain", "--weights=no.npz"), "cannot read --weights=no"),
        ((*LOGITS, "--surrogate=no.npz"), "--surrogate=no.npz is no folder or file"),
        (
            (*LOGITS, "--surrogate=short.npz"),
            "--surrogate=short.npz is no CIFAR ResNet",
        ),
        ((*LOGITS, "--surrogate=no.py:load"), "--surrogate=no.py:load: no file no.py"),
        (
            (*LOGITS, f"--surrogate={FILE}:plain,no.npz"),
            "plain,no.npz: No such file",
        ),
        ((*LOGITS, f"--surrogate={FILE}:plain"), "names a factory"),
        (
            (*LOGITS, f"--surrogate={FILE}:upside_down"),
            "upside_down is right on 0.0% of 20",
        ),
    ],
)
def test_mistakes_are_one_line(folder, flags, message):
    done = evaluate(folder, *flags, "--out=none.json")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (folder / "none.json").exists()
