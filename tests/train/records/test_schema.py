"""The result files against records/schema.json, and the schema against the code."""

import copy
import dataclasses
import json
import pathlib

import made_up
import pytest

from train.evaluation.cells import Cell
from train.evaluation.statistics import wilson_interval
from train.records import provenance
from train.records.storing import read_record
from train.reproductions.comparison import compare, printed_values
from train.threats.attackers import ALGORITHMS, PRESETS, THREATS, AttackSettings

ROOT = pathlib.Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "results").glob("**/*.json"))
SCHEMA = json.loads((ROOT / "train" / "records" / "schema.json").read_text())["$defs"]
SHA256 = "0" * 64
PROVENANCE = {
    "command": "python -m train.evaluate --checkpoint=run",
    "date": "2026-01-02",
    "commit": "0123456789ab+",
    "hardware": "a machine",
    "versions": {"python": "3.11", "jax": "1", "jaxlib": "1"},
}
NETWORK = {
    "settings": {
        "model": "small",
        "defense": None,
        "masks_per_image": 1,
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 0.1,
        "seed": 0,
    },
    "training_set": {
        "name": "shapes",
        "num_train": 8,
        "image_shape": [32, 32, 3],
        "sha256": SHA256,
    },
    "weights_sha256": SHA256,
}


def cells_in(value):
    """Every cell, however deep in a record."""
    if isinstance(value, dict) and "correct_by_image" in value:
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from cells_in(each)


def evaluation():
    """A small record of `evaluate`; its cells are as the code makes them."""
    clean = Cell("clean", "none", None, "none", (True, False), (30.0, 31.0))
    pgd = PRESETS["pgd"]
    attacked = Cell(
        "white-box", pgd.words(), pgd, "splic", (False, False), (30.0, 31.0), 9
    )
    stamp = {name: PROVENANCE[name] for name in ("commit", "date")}
    finding = {"check": "random", "tripped": True, "values": {"a": 0.5}}
    dataset = {"name": "shapes", "split": "test", "count": 2, "sha256": SHA256}
    return {
        "provenance": copy.deepcopy(PROVENANCE),
        "format": 2,
        "dataset": dataset,
        "network": copy.deepcopy(NETWORK),
        "surrogate": None,
        "votes": 1,
        "vote": "logits",
        "seed": 0,
        "defenses": {"none": None, "splic": {"method": "splic"}},
        "soundness": {"splic": [{**finding, "sentence": "It differs."}]},
        "cells": [{**cell.summary(), **stamp} for cell in (clean, attacked)],
        "comparisons": [],
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_results_are_valid(path, schema_errors):
    record = read_record(path)
    assert schema_errors(record) == []
    for cell in cells_in(record):
        # What no schema can say: the numbers of a cell belong together.
        right, count = cell["correct_by_image"].count("1"), cell["count"]
        assert len(cell["correct_by_image"]) == count
        assert cell["correct"] == right
        assert cell["accuracy"] == right / count
        interval = wilson_interval(right, count)
        assert cell["accuracy_interval"] == pytest.approx(interval, abs=1e-9)
    if record.get("comparison"):
        number, dataset = int(record["item"][5:]), record["dataset"]["name"]
        printed = printed_values(number, dataset)
        rows = [
            compare(cell, printed.get((cell["row"], cell["column"])))
            for cell in record["cells"]
        ]
        assert record["comparison"] == rows


def test_every_kind_of_results_is_there():
    kinds = {"evaluate", "quickstart", "reproduce"}
    commands = [
        json.loads(path.read_text()).get("provenance", {}).get("command", "")
        for path in FILES
    ]
    assert kinds <= {c.split()[2].rpartition(".")[2] for c in commands if c}


def test_a_fresh_record_is_valid(schema_errors):
    record = evaluation()
    assert schema_errors(record) == []  # as before the precision was recorded
    record["provenance"] = provenance.provenance()
    record["provenance"]["command"] = PROVENANCE["command"]
    record["provenance"]["xla_flags"] = "--xla_gpu_deterministic_ops=true"
    assert schema_errors(record) == []


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("cells", 1, "accuracy_interval"), None, "'accuracy_interval' is a required"),
        (("cells", 1, "accuracy_interval"), [0.1], "[0.1] is too short"),
        (("cells", 1, "accuracy"), 2, "2 is greater than the maximum of 1"),
        (("cells", 1, "threat"), "grey-box", "'grey-box' is not one of"),
        (("cells", 1, "seed"), None, "'seed' is a required"),
        (("cells", 1, "queries_per_image"), 0, "0 is less than the minimum of 1"),
        (("cells", 1, "attack_settings", "epsilon"), 8, "8 is greater than"),
        (("cells", 1, "attack_settings", "steps"), None, "'steps' is a required"),
        (("cells", 1, "date"), "today", "'today' does not match"),
        (("cells", 1, "acuracy"), 0.5, "'acuracy' was unexpected"),
        (("cells", 0, "queries_per_image"), 3, "0 was expected"),
        (("dataset", "sha256"), "abc", "'abc' does not match"),
        (("soundness",), None, "'soundness' is a required"),
        (("format",), 3, "3 is not one of [1, 2]"),
        (("provenance", "hardware"), None, "'hardware' is a required"),
        (("provenance", "float32_products"), "", "'' should be non-empty"),
        (("provenance", "xla_flags"), ["--a"], "is not of type 'string'"),
        (("provenance",), None, "'provenance' is a dependency of 'format'"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_broken_record_is_refused(keys, value, message, schema_errors):
    record = evaluation()
    *outer, last = keys
    place = record
    for key in outer:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    assert message in " ".join(schema_errors(record))


@pytest.mark.parametrize("item", ["table1", "table3", "figure3", "choice"])
def test_a_reproduction_of_given_networks_is_valid(item, schema_errors):
    record = made_up.reproduction(item, "resnet20")
    assert schema_errors(record | {"surrogate": made_up.PUBLISHED}) == []
    assert schema_errors(record | {"surrogate": {"model": "resnet20"}}) != []


def test_a_broken_sweep_is_refused(schema_errors):
    record = made_up.reproduction("choice", "resnet20")
    for name in ("criterion", "chosen_on", "rows"):
        found = schema_errors({x: y for x, y in record.items() if x != name})
        assert f"'{name}' is a required" in " ".join(found)
    row = record["rows"][0]
    for broken in (
        {**row, "score_where_chosen": 50},
        {**row, "held_out": {**row["held_out"], "EOT": row["held_out"]["PGD"]}},
        {name: value for name, value in row.items() if name != "perturbation_left"},
    ):
        assert schema_errors(record | {"rows": [broken]}) != []
    # One that is not finished has cells alone.
    record = {**record, "finished": False}
    del record["rows"]
    assert schema_errors(record) == []


def test_the_schema_has_the_codes_names():
    threats = SCHEMA["cell_1"]["properties"]["threat"]["enum"]
    assert tuple(threats) == THREATS
    attack = SCHEMA["attack_settings"]
    fields = [field.name for field in dataclasses.fields(AttackSettings)]
    assert list(attack["properties"]) == fields == attack["required"]
    assert attack["properties"]["name"]["enum"] == list(ALGORITHMS)
