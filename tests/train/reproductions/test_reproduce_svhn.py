"""`reproduce` on SVHN's files, which are generated here: every step but the numbers."""

import json

import binaries
import numpy as np
import pytest
import scipy.io

from train.records.storing import read_record

pytestmark = pytest.mark.slow
SVHN_TABLE_4 = {  # as the paper prints it, in percent
    "SRF": {"Clean": 89.6, "FGSM": 57.0, "PGD": 54.6, "CW": 83.5},
    "SPLIC": {"Clean": 95.9, "FGSM": 59.8, "PGD": 63.6, "CW": 86.0},
}


@pytest.fixture(scope="module")
def record_and_text(tmp_path_factory, optimized_module):
    """Table 4 at the scale of tests, as a user runs it."""
    folder = tmp_path_factory.mktemp("svhn")
    rng = np.random.default_rng(0)
    for split, count in (("train", 128), ("test", 16)):
        pixels = rng.integers(0, 256, (32, 32, 3, count), np.uint8)
        digits = np.arange(count, dtype=np.uint8)[:, None] % 10 + 1
        path = folder / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": pixels, "y": digits})
    flags = ("--scale=smoke", "--dataset=svhn_cropped", f"--data_dir={folder}")
    flags += ("--only=table4", "--out=out")
    done = binaries.run("train.reproduce", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    out = folder / "out" / "table4"
    record = read_record(out.with_suffix(".json"))
    return record, out.with_suffix(".md").read_text()


def test_the_record_is_of_svhn_and_valid(record_and_text, schema_errors):
    record, _ = record_and_text
    assert schema_errors(record) == []
    assert record["finished"]
    assert record["dataset"]["name"] == "svhn_cropped"
    places = [(cell["row"], cell["column"]) for cell in record["cells"]]
    assert places == [(row, c) for row, cs in SVHN_TABLE_4.items() for c in cs]
    for cell, row in zip(record["cells"], record["comparison"], strict=True):
        assert cell["count"] == 12  # settings would be chosen on the first four
        assert row["paper"] == SVHN_TABLE_4[cell["row"]][cell["column"]]


def test_the_markdown_shows_the_papers_values_and_ours(record_and_text):
    record, text = record_and_text
    assert text.startswith("# Table 4, svhn_cropped\n")
    assert "its numbers say nothing about the paper" in text
    head, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = (
        "method, column, paper %, ours %, 95 % interval, images, difference, "
        "the paper's value"
    )
    assert [cell.strip() for cell in head.strip("|").split("|")] == heads.split(", ")
    apart = 0
    for cell, line in zip(record["cells"], lines, strict=True):
        paper = SVHN_TABLE_4[cell["row"]][cell["column"]]
        ours = 100 * cell["accuracy"]
        low, high = (100 * end for end in cell["accuracy_interval"])
        agrees = low <= paper <= high
        apart += not agrees
        shown = [
            cell["row"],
            cell["column"],
            f"{paper:.1f}",
            f"{ours:.1f}",
            f"{low:.1f} to {high:.1f}",
            "12",
            f"{ours - paper:+.1f}",
            "agrees" if agrees else "disagrees",
        ]
        assert [word.strip() for word in line.strip("|").split("|")] == shown
    assert f"{apart} of 8 printed values disagree with ours" in text


def test_a_broken_record_is_refused(record_and_text, schema_errors):
    record, _ = record_and_text
    for keys, value, message in (
        (("comparison", 0, "verdict"), "fine", "'fine' is not one of"),
        (("comparison", 0, "paper"), 101, "101 is greater than"),
        (("cells", 0, "row"), "", "should be non-empty"),
        (("cells", 0, "threat"), "grey-box", "'grey-box' is not one of"),
        (("dataset", "train_sha256"), 7, "7 is not of type 'string'"),
    ):
        broken = json.loads(json.dumps(record))
        *outer, last = keys
        place = broken
        for key in outer:
            place = place[key]
        place[last] = value
        assert message in " ".join(schema_errors(broken))
