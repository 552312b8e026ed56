"""The examples run, print what they promise, and stay short."""

import pathlib
import re
import runpy
import sys

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "examples"
PRINTED = {
    "purify_photo": r"noisy photo: +(.*) dB\n.*clean: +(.*) dB\n.*noisy: +(.*) dB\n",
    "attack_network": r"clean: (.*) %.*\nFGSM: (.*) %.*\nPGD-20: (.*) %.*\nSquare.*\n",
    "transform_before_network": r".*\nno defence +\d+ .*\n(.+\n)*SPLIC +\d+ .*\n",
    "adaptive_attack": r"clean: (.*)% accuracy.*\nattacked: (.*)% accuracy.*\n",
    "train_on_purified": r"loss: (.*) at first, (.*) after.*\n.*: (.*) %.*\n.*\n",
}
LONG = {"adaptive_attack", "train_on_purified"}


@pytest.mark.usefixtures("optimized_module")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
        for name in PRINTED
    ],
)
def test_an_example_runs(name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert re.match(PRINTED[name], capsys.readouterr().out)


def test_every_example_is_run_and_short():
    examples = {path.stem: path for path in FOLDER.glob("*.py")}
    assert set(examples) == {*PRINTED, "digits"}
    for path in examples.values():
        assert len(path.read_text().splitlines()) < 40, path
