import json
import pathlib
import re
import shutil

import made_up
import pytest

from train.present.index import index
from train.present.quotes.pages import BLOCKS, PAGES, QUOTED, VALUES, fill
from train.present.quotes.placed import PLACED
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
            if "has not been measured yet" in block:
                continue
            # The first digit below the table's head.
            digit = re.compile(r"\d").search(block, max(block.find("\n| --"), 0))
            changed = str(9 - int(digit[0]))
            block = block[: digit.start()] + changed + block[digit.end() :]
            edited = before + begin + block + end + after
            assert edited != text
            assert fill(edited, RESULTS) == text, name


def test_a_value_edited_by_hand_is_found():
    text = "".join((ROOT / page).read_text() for page in PAGES)
    places = [
        f"{match['name']} {match['place']}"
        for match in QUOTED.finditer(text)
        if match["name"] in PLACED
    ]
    assert {place.partition(" ")[0] for place in places} == set(PLACED)
    for name in (*VALUES, *places):
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
    assert table() == "Table 2 has not been measured yet."
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
        "scale": {"name": "workstation", "about": "hours"},
        "dataset": {"name": "cifar10"},
        "seed": 0,
        "given": {"model": "resnet56", "weights_sha256": "5" * 64},
        "clean_accuracy": {"count": 600, "correct": 564, "accuracy": 0.94},
        "cells": [{"count": 50}],
        "comparison": [row, {**other, "verdict": "not printed"}],
    }
    path = tmp_path / "reproduction" / "table2.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record))
    assert table() == "Table 2 has not been measured yet."
    path.write_text(json.dumps(record | {"finished": True}))
    line = "| SPLIC | BPDA | 68.5 | 10.0 | 4.3 to 21.4 | 50 | -58.5 | disagrees |"
    assert line in table()
    assert "| SPLIC | EOT | - | 10.0 | 4.3 to 21.4 | 50 | - | not printed |" in table()
    for words in (
        "1 of 1 printed values",
        "50 test images",
        "Vanilla is the published resnet56 (94.0 % of 600 clean images)",
        "scale workstation: hours; seed 0",
    ):
        assert words in table()
    record["comparison"] = record["comparison"][1:]
    path.write_text(json.dumps(record | {"finished": True}))
    assert "the paper prints none of these" in table()


def test_a_reproduced_figure_is_a_row_for_each_of_its_rows(tmp_path):
    figure = lambda: BLOCKS["reproduced_figure12"](Results(tmp_path))
    assert figure() == "Figure 12 has not been measured yet."
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
        "scale": {"name": "workstation", "about": "hours"},
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
    for words in ("20 or 40 test images", "seed 0", "Clean: +0.26 +- 0.04"):
        assert words in figure()


def test_a_missing_result_is_named(tmp_path):
    with pytest.raises(UserError, match=r"quickstart\.json cannot be read"):
        fill("<!-- quickstart -->\n<!-- end quickstart -->", Results(tmp_path))


ABSENT = ("has not been measured yet.", "(not measured yet)")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The checkout's results with all that may be missing made up, and without it."""
    full, bare = (tmp_path_factory.mktemp(name) for name in ("full", "bare"))
    files = made_up.results()
    coming = {
        name: record
        for name, record in files.items()
        if name.startswith("reproduction/") or name == "defenses.json"
    }
    for path in (ROOT / "results").glob("**/*.json"):
        name = path.relative_to(ROOT / "results")
        if name.as_posix() not in coming:
            for folder in (full, bare):
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copy(path, folder / name)
    made_up.write(full, {**coming, "adaptive.json": files["adaptive.json"]})
    for network in made_up.REPRODUCED:
        (full / "reproduction" / f"choice_{network}.png").touch()
    return full, bare


@pytest.mark.parametrize("page", PAGES)
def test_every_quote_is_filled_once_its_file_is_there(page, folders):
    full, bare = map(Results, folders)
    text = (ROOT / page).read_text()
    filled = fill(text, full)
    for absent in ABSENT:
        assert absent not in filled
    assert fill(filled, bare) == fill(text, bare)


def test_what_is_not_measured_is_said_in_a_line(folders):
    bare = Results(folders[1])
    absent = [
        text for block in BLOCKS.values() if (text := block(bare)).endswith(ABSENT[0])
    ]
    assert len(absent) > 15
    more = [text for text in absent if "\n" in text]
    # The table of all transforms is there, but for its column of the cost.
    assert more == [BLOCKS["method_table"](bare)]
    assert "| cost |" not in more[0]


def test_a_cell_amid_the_text_has_its_interval(folders):
    full, bare = map(Results, folders)
    cells = full.record("reproduction/table3.json")["cells"]
    (cell,) = (
        cell
        for cell in cells
        if (cell["row"], cell["column"]) == ("SPLIC, lambda as printed", "PGD")
    )
    low, high = (100 * end for end in cell["accuracy_interval"])
    text = "a <!-- ours table3/SPLIC, lambda as printed/PGD -->{}<!-- end ours --> b"
    expected = f"{100 * cell['accuracy']:.1f} % ({low:.1f} to {high:.1f})"
    assert fill(text.format("?"), full) == text.format(expected)
    assert fill(text.format("?"), bare) == text.format("(not measured yet)")
    text = "<!-- printed table3/SPLIC/PGD -->{}<!-- end printed -->"
    assert fill(text.format(""), bare) == text.format("43.6 %")
    with pytest.raises(ValueError, match="prints nothing at table3/SPLIC/Clean"):
        fill("<!-- printed table3/SPLIC/Clean --><!-- end printed -->", bare)


def test_a_verdict_counts_the_printed_values_inside(tmp_path):
    rows = [
        {"row": row, "column": column, "paper": paper, "verdict": verdict}
        for row, column, paper, verdict in (
            ("SPLIC", "Clean", None, "not printed"),
            ("SPLIC", "FGSM", 40.9, "agrees"),
            ("SPLIC", "PGD", 43.6, "disagrees"),
            ("USVT", "PGD", 12.1, "disagrees"),
        )
    ]
    made_up.write(
        tmp_path,
        {"reproduction/table3.json": {"finished": True, "comparison": rows}},
    )
    text = "<!-- verdict table3/SPLIC -->{}<!-- end verdict -->"
    expected = "1 of 2 printed values lie inside our intervals"
    assert fill(text.format(""), Results(tmp_path)) == text.format(expected)


def sweeps(folder, settings):
    """Files of the sweep with these candidates: scores and PSNR of both networks."""
    for network, place in (("resnet56", 0), ("resnet20", 1)):
        record = made_up.reproduction("choice", network)
        for row in record["rows"]:
            row["candidate"] = row["row"] in settings
            if row["candidate"]:
                scores, psnr = settings[row["row"]]
                row["score_where_chosen"] = scores[place]
                row["psnr_where_chosen"] = psnr[place]
        made_up.write(folder, {f"reproduction/choice_{network}.json": record})


def test_the_criterion_chooses_the_clearest_of_those_near_the_best(tmp_path):
    settings = {
        # Best, but not the clearest; the clearest within two points; too far below.
        "separate, lambda 0.15": ((0.50, 0.40), (23.0, 22.0)),
        "concatenated, lambda 0.15": ((0.45, 0.41), (24.0, 23.0)),
        "separate, lambda 0.02": ((0.52, 0.33), (30.0, 30.0)),
    }
    sweeps(tmp_path, settings)
    text = BLOCKS["choice_chosen"](Results(tmp_path))
    assert (
        "of 3 candidates **concatenated, lambda 0.15** (concatenated channels)" in text
    )
    assert "resnet56" in text and "resnet20" in text
    assert text.splitlines()[6:8] == [
        "| concatenated channels | concatenated, lambda 0.15 | 43.0 | 23.5 |",
        "| separate channels | separate, lambda 0.15 | 45.0 | 22.5 |",
    ]
    assert "`SPLICConfig()` is this setting." in text
    assert text.startswith("> The score of a setting is")
    # Without the second network the first decides alone.
    (tmp_path / "reproduction" / "choice_resnet20.json").unlink()
    text = BLOCKS["choice_chosen"](Results(tmp_path))
    assert "**separate, lambda 0.02** (separate" in text and "resnet20" not in text
    assert "is another: concatenated, lambda 0.15." in text


def test_the_sweeps_tables_say_what_is_left_of_the_perturbation(folders):
    full = Results(folders[0])
    table = BLOCKS["choice_lambda_resnet56"](full).splitlines()
    assert table[0].endswith("| C&W, % | adaptive, % | perturbation left, % |")
    rows = full.record("reproduction/choice_resnet56.json")["rows"]
    by_name = {row["row"]: row for row in rows}
    line = next(x for x in table if x.startswith("| separate, lambda 0.1 |"))
    left = 100 * by_name["separate, lambda 0.1"]["perturbation_left"]["mean"]
    assert line.endswith(f"| - | {left:.1f} +- 1.0 |")  # met no adaptive attack
    formulas = BLOCKS["finding_formulas"](full)
    assert "| eq. (10) and line 11 as printed, the printed lambda | 0.02 |" in formulas
    text = "<!-- swept resnet56/separate, lambda 0.1/left -->{}<!-- end swept -->"
    assert fill(text.format(""), full) == text.format(f"{left:.0f} %")


def test_the_first_figure_says_how_often_its_network_is_right(folders):
    full, bare = map(Results, folders)
    text = BLOCKS["purified"](full)
    assert "](docs/purified.png)" in text
    assert "right on 3 of them clean, 0 attacked and 2 attacked and purified" in text
    assert BLOCKS["purified"](bare).endswith("has not been measured yet.")
