"""Every number with a unit in the pages' prose has a source, and agrees with it.

Tables are generated, and `tests/train/test_quote.py` holds them to their files.
"""

import json
import pathlib
import re

import pytest

from train.present.quotes.pages import BLOCKS, PAGES
from train.present.report.traced import FORMATS, Results
from train.reproductions.comparison import DATASETS, printed_values

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROSE = json.loads((ROOT / "train" / "prose.json").read_text())
RESULTS = Results(ROOT / "results")
CODES = {title: name for name, title in DATASETS.items()}
ALL_PAGES = (*PAGES, "docs/protocol.md")
# What is no prose: code, and what `train.quote` writes.
WRITTEN = re.compile(
    rf"```.*?```|<!-- ({'|'.join(BLOCKS)}) -->.*?<!-- end \1 -->", re.DOTALL
)
NUMBER = re.compile(
    r"(?<![\w.])(\d[\d,]*(?:\.\d+)?)\s+(%|percent\b|points?\b|dB\b|times\b)"
)
NAMES = {"95 %"}  # what the intervals are


def numbers(text):
    """The numbers with a unit in the prose of a page, in order."""
    found = NUMBER.findall(WRITTEN.sub("", text))
    return [words for words in map(" ".join, found) if words not in NAMES]


def wrong(page, text):
    """What is wrong with the numbers of a page: no source, or another value."""
    found, entries = numbers(text), PROSE["pages"].get(page, [])
    listed = [entry["number"] for entry in entries]
    if found != listed:
        return [f"{page} says {found}, train/prose.json has {listed}"]
    return [
        f"{page} says {entry['number']}, its source {value}"
        for entry in entries
        if (value := value_of(entry)) != entry["number"].split()[0]
    ]


def value_of(entry):
    """What the source of a number says, as the page should."""
    match entry:
        case {"set": _}:
            return entry["number"].split()[0]
        case {"cited": name}:
            return f"{PROSE['cited'][name]['value']:.1f}"
        case {"printed": [table, dataset, method, column]}:
            return f"{printed_values(table, CODES[dataset])[method, column]:.1f}"
        case {"result": source, "format": form}:
            return FORMATS[form](*map(RESULTS.value, source.split()))


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_number_in_the_prose_has_a_source(page):
    assert wrong(page, (ROOT / page).read_text()) == []


@pytest.mark.parametrize("page", PROSE["pages"])
def test_a_number_edited_by_hand_is_found(page):
    text = (ROOT / page).read_text()
    for number in dict.fromkeys(numbers(text)):
        digits = number.split()[0]
        last = str((int(digits[-1]) + 1) % 10)
        pattern = rf"(?<![\w.]){re.escape(digits)}(?=\s+{number.split()[1]})"
        edited = re.sub(pattern, digits[:-1] + last, text)
        assert edited != text
        assert wrong(page, edited), number
    assert wrong(page, text + "\nAll in all 12.3 % better.\n")


def test_a_source_that_was_edited_is_found(monkeypatch):
    page = "docs/formulas.md"
    (entry,) = PROSE["pages"][page]
    text = (ROOT / page).read_text().replace("0.3 dB", "0.4 dB")
    monkeypatch.setitem(entry, "number", "0.4 dB")
    assert wrong(page, text) == [f"{page} says 0.4 dB, its source 0.3"]
    # Every source is one that this test can look up.
    for entries in PROSE["pages"].values():
        assert all(isinstance(value_of(entry), str) for entry in entries)
