"""The training benchmark at toy size, and the file that benchmarks share."""

import json
import pathlib

import binaries
import pytest

from benchmarks import _speed
from train.utils.errors import UserError


@pytest.mark.slow
def test_training(tmp_path: pathlib.Path) -> None:
    kept = {"provenance": {"command": "python -m benchmarks.purify"}, "kept": 1}
    (tmp_path / "s.json").write_text(json.dumps({"purify": kept}))
    flags = ("--models=small", "--batch_size=2", "--steps=1", "--repeats=2")
    done = binaries.start("benchmarks.training", *flags, "--out=s.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Training steps" in done.stdout
    record = json.loads((tmp_path / "s.json").read_text())
    assert record["purify"] == kept
    record = record["training"]
    assert record["provenance"]["versions"]["jax"]
    (row,) = record["training"]
    seconds = row["step_seconds"]
    assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    assert row["epoch_seconds"] == pytest.approx(25_000 / row["steps_per_second"])
    # Seven 3 x 3 convolutions and two shortcuts.
    assert sum(layer["times"] for layer in record["layers"]) == 9
    first = record["layers"][0]
    assert first["input"] == [2, 32, 32, 3] and first["kernel"] == [3, 3, 3, 16]
    assert first["gigaflop"] == pytest.approx(2e-9 * 2 * 32 * 32 * 27 * 16)


def test_a_file_of_something_else_is_left_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "speed.json"
    for text in ("[]", "no JSON", '{"a": 1}', '{"growth": {"points": []}}'):
        path.write_text(text)
        with pytest.raises(UserError, match="is no .*another --out or delete"):
            _speed.update(path, "training", {})
        assert path.read_text() == text
