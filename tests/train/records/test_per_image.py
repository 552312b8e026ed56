"""What a record says of each image is beside it, and comes back as it was."""

import json

import numpy as np
import pytest

from train.records import per_image, storing
from train.records.storing import read_record, write_record
from train.utils.errors import UserError


def cell(answers, psnr):
    return {"defense": "none", "correct_by_image": answers, "psnr_db_by_image": psnr}


RECORD = {
    "seed": 0,
    "cells": [cell("0110", [20.25, None, 31.1, 0.1]), cell("0" * 16, [])],
    "networks": {"bare": [cell("0110", [1.0])]},
    "rows": [{"accuracy_by_image": [0.30000001192092896, 1.0]}],
}


def test_comes_back_as_it_was(tmp_path):
    path = tmp_path / "r.json"
    write_record(path, RECORD)
    assert read_record(path) == RECORD
    text = path.read_text()
    assert "0110" not in text and "20.25" not in text
    with np.load(per_image.path_beside(path), allow_pickle=False) as arrays:
        found = [arrays[name] for name in arrays]
    assert len(found) == 6  # equal answers are kept once
    assert {array.dtype for array in found} == {np.dtype(bool), np.dtype(float)}


def test_an_older_record_has_the_values_themselves(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(RECORD))
    assert read_record(path) == RECORD
    write_record(path, read_record(path))
    assert read_record(path) == RECORD


def test_a_run_killed_between_the_files_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    write_record(path, RECORD)
    other = {**RECORD, "cells": [cell("1111", [2.0])]}
    with monkeypatch.context() as patch:
        patch.setattr(storing, "write_whole", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_record(path, other)
    assert read_record(path) == RECORD
    write_record(path, other)
    assert read_record(path) == other
    with np.load(per_image.path_beside(path)) as arrays:
        assert len(arrays.files) == 5  # nothing of the record that is gone


def test_a_record_without_images_leaves_no_file(tmp_path):
    path = tmp_path / "r.json"
    write_record(path, RECORD)
    write_record(path, {"seed": 0})
    assert not per_image.path_beside(path).exists()


def test_arrays_of_others_and_damage_are_refused(tmp_path):
    path = tmp_path / "r.json"
    write_record(path, RECORD)
    beside = per_image.path_beside(path)
    data = beside.read_bytes()
    np.savez(beside, x=np.ones(3))
    with pytest.raises(UserError, match=r"r\.npz does not belong to .*r\.json"):
        read_record(path)
    np.savez(beside, x=np.array([None]))
    with pytest.raises(UserError, match="damaged"):
        read_record(path)
    beside.write_bytes(data[:-30])
    with pytest.raises(UserError, match="damaged"):
        read_record(path)
    with pytest.raises(UserError, match="missing"):
        read_record(tmp_path / "none.json")


def test_each_entry_of_a_list_is_a_line(tmp_path):
    path = tmp_path / "r.json"
    write_record(
        path, {"rows": [{"a": {"b": [1, 2]}}, {}], "facts": {"c": {"d": None}}}
    )
    assert path.read_text().splitlines() == [
        "{",
        ' "rows": [',
        '  {"a": {"b": [1, 2]}},',
        "  {}",
        " ],",
        ' "facts": {',
        '  "c": {"d": null}',
        " }",
        "}",
    ]
