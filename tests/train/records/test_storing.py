"""Files of results are gone on with, or left alone."""

import json
import sys

import pytest

from benchmarks import _speed
from train.records import provenance
from train.records.storing import record_of, require_replaceable
from train.utils.errors import UserError

INPUTS = {"format": 2, "dataset": {"name": "shapes", "count": 8}, "seed": 0}


def test_the_same_inputs_go_on(tmp_path):
    path = tmp_path / "r.json"
    assert record_of(path, INPUTS) == {}
    path.write_text(json.dumps({**INPUTS, "cells": [1]}))
    assert record_of(path, INPUTS)["cells"] == [1]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"format": 3}, "format 2, not 3"),
        ({"dataset": {"name": "svhn", "count": 8}}, 'dataset.name "shapes", not "svhn'),
        ({"dataset": {"name": "shapes"}}, "dataset.count 8, not null"),
        ({"dataset": {**INPUTS["dataset"], "sha256": "0" * 64}}, "another dataset.sha"),
    ],
)
def test_other_inputs_are_refused_and_named(tmp_path, other, message):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**INPUTS, "cells": []}))
    with pytest.raises(UserError, match=rf"with {message}.*another --out or delete"):
        record_of(path, {**INPUTS, **other})


@pytest.mark.parametrize("text", ["", "[]", "no JSON", '{"seed": 0}', "\xff"])
def test_something_else_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match="is no .*another --out or delete the file"):
        record_of(path, INPUTS)
    with pytest.raises(UserError, match="is no .*another --out or delete the file"):
        require_replaceable(path)
    with pytest.raises(UserError, match="cannot read"):
        record_of(tmp_path, INPUTS)


@pytest.fixture
def run_as(monkeypatch):
    def run_as(*flags):
        monkeypatch.setattr(sys, "argv", ["bench", *flags])

    return run_as


def test_a_benchmark_replaces_its_own_measurement_alone(tmp_path, run_as):
    path = tmp_path / "b.json"
    run_as("--seed=1", "--repeats=3", "--out=b.json")
    require_replaceable(path)
    path.write_text(json.dumps({"provenance": provenance.provenance(), "rows": []}))
    run_as("--repeats=3", "--seed=1", f"--out={path}", "--data_dir=elsewhere")
    require_replaceable(path)
    for flags in (("--seed=2", "--repeats=3"), ("--seed=1",), ()):
        run_as(*flags)
        with pytest.raises(UserError, match="made by `.*--seed=1 --repeats=3 --out=b"):
            require_replaceable(path)


def test_a_section_of_speeds_is_replaced_by_its_own_command_alone(tmp_path, run_as):
    path = tmp_path / "s.json"
    run_as("--rounds=2")
    _speed.update(path, "purify", {"rows": [1]})
    _speed.update(path, "purify", {"rows": [2]})
    run_as("--rounds=3")
    with pytest.raises(UserError, match="was made by `.* --rounds=2`, with other sett"):
        _speed.update(path, "purify", {"rows": [3]})
    _speed.update(path, "growth", {"points": []})
    found = json.loads(path.read_text())
    assert found["purify"]["rows"] == [2] and found["growth"]["points"] == []
