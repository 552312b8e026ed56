import json
import pathlib
import re

import pytest

from train.present.index import index
from train.present.quotes.pages import BLOCKS, PAGES, VALUES, fill
from train.present.results import Results
from train.utils.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[3]
RESULTS = Results(ROOT / "results")


def test_pages_quote_what_the_results_hold():
    pages = {page: (ROOT / page).read_text() for page in PAGES}
    for page, text in pages.items():
        assert fill(text, RESULTS) == text, (
            f"{page} is out of step with results/: run `python -m train.quote`"
        )
    for name in BLOCKS:
        assert any(f"<!-- {name} -->" in text for text in pages.values())


def test_the_page_of_the_results_names_every_file():
    folder = ROOT / "results"
    text = (folder / "README.md").read_text()
    assert text == index(RESULTS), "run `python -m train.quote`"
    for path in folder.glob("**/*.*"):
        name = path.relative_to(folder).as_posix()
        if "per_image" in path.parts:
            name = (
                (path.parents[1] / f"{path.stem}.json").relative_to(folder).as_posix()
            )
        assert name == "README.md" or f"`{name}" in text


def test_a_cell_edited_by_hand_is_found():
    for page in PAGES:
        text = (ROOT / page).read_text()
        for name in BLOCKS:
            begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
            if begin not in text:
                continue
            before, _, rest = text.partition(begin)
            block, _, after = rest.partition(end)
            # The first digit below the table's head.
            digit = re.compile(r"\d").search(block, max(block.find("\n| --"), 0))
            changed = str(9 - int(digit[0]))
            block = block[: digit.start()] + changed + block[digit.end() :]
            edited = before + begin + block + end + after
            assert edited != text
            assert fill(edited, RESULTS) == text, name


def test_a_value_edited_by_hand_is_found():
    text = "".join((ROOT / page).read_text() for page in PAGES)
    for name in VALUES:
        tag = f"<!-- {name} -->"
        assert tag in text
        edited = text.replace(tag, f"{tag}9")
        assert fill(edited, RESULTS) == fill(text, RESULTS) == text


def test_blocks_are_replaced_and_the_rest_is_left(monkeypatch, tmp_path):
    monkeypatch.setitem(BLOCKS, "quickstart", lambda results: "new")
    text = "a\n<!-- quickstart -->\nold\n<!-- end quickstart -->\nz"
    expected = "a\n<!-- quickstart -->\nnew\n<!-- end quickstart -->\nz"
    assert fill(text, Results(tmp_path)) == expected
    assert fill(expected, Results(tmp_path)) == expected


def test_a_reproduced_table_stands_beside_the_papers(tmp_path):
    table = lambda: BLOCKS["reproduced_table2"](Results(tmp_path))
    assert table() == "Table 2 has not been run on real images yet."
    row = {"row": "SPLIC", "column": "BPDA", "paper": 68.5, "ours": 10.0}
    row |= {"difference": -58.5, "interval": [4.3, 21.4], "count": 50}
    row |= {"verdict": "disagrees"}
    other = {**row, "column": "EOT", "paper": None, "difference": None}
    record = {
        "title": "white-box attacks",
        "finished": False,
        "provenance": {
            "hardware": "a machine",
            "date": "2026-01-02",
            "versions": {"jax": "1.2.3"},
        },
        "scale": {"name": "cpu", "about": "a small network"},
        "dataset": {"name": "cifar10"},
        "seed": 0,
        "comparison": [row, {**other, "verdict": "not printed"}],
    }
    path = tmp_path / "reproduction" / "table2.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record))
    assert table() == "Table 2 has not been run on real images yet."
    path.write_text(json.dumps(record | {"finished": True}))
    line = "| SPLIC | BPDA | 68.5 | 10.0 | 4.3 to 21.4 | 50 | -58.5 | disagrees |"
    assert line in table()
    assert "| SPLIC | EOT | - | 10.0 | 4.3 to 21.4 | 50 | - | not printed |" in table()
    for words in ("1 of 1 printed values", "scale cpu: a small network", "seed 0"):
        assert words in table()
    record["comparison"] = record["comparison"][1:]
    path.write_text(json.dumps(record | {"finished": True}))
    assert "the paper prints none of these" in table()


def test_a_reproduced_figure_is_a_row_for_each_of_its_rows(tmp_path):
    figure = lambda: BLOCKS["reproduced_figure12"](Results(tmp_path))
    assert figure() == "Figure 12 has not been run on real images yet."
    cell = {"row": "SPLIC", "column": "Clean", "accuracy": 0.5, "count": 40}
    cell |= {"accuracy_interval": [0.35, 0.652]}
    record = {
        "title": "PSNR",
        "finished": True,
        "provenance": {
            "hardware": "a machine",
            "date": "2026-01-02",
            "versions": {"jax": "1.2.3"},
        },
        "scale": {"name": "cpu"},
        "dataset": {"name": "cifar10"},
        "seed": 0,
        "cells": [cell, {**cell, "column": "PGD"}, {**cell, "row": "SRF", "count": 20}],
        "splic_minus_srf_db": {"Clean": {"mean": 0.256, "half_width": 0.04}},
    }
    path = tmp_path / "reproduction" / "figure12.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record))
    assert "| accuracy, % (95 % interval) | Clean | PGD |" in figure()
    assert "| SPLIC | 50.0 (35.0 to 65.2) | 50.0 (35.0 to 65.2) |" in figure()
    assert "| SRF | 50.0 (35.0 to 65.2) | - |" in figure()
    for words in ("20 or 40 test images", "scale cpu, seed 0", "Clean: +0.26 +- 0.04"):
        assert words in figure()


def test_a_missing_result_is_named(tmp_path):
    with pytest.raises(UserError, match=r"quickstart\.json cannot be read"):
        fill("<!-- quickstart -->\n<!-- end quickstart -->", Results(tmp_path))
