"""Measured, printed and cited numbers in the pages' prose are quoted, not typed.

`tests/train/present/test_quote.py` holds what is quoted to its files.
"""

import pathlib
import re

import pytest

from train.present.quotes.pages import PAGES, QUOTED

ROOT = pathlib.Path(__file__).resolve().parents[1]
CODE = re.compile("```.*?```", re.DOTALL)
NUMBER = re.compile(
    r"(?<![\w.])(\d[\d,]*(?:\.\d+)?)\s+(%|percent\b|points?\b|dB\b|times\b)"
)
# Nobody measured these: what intervals are, goals, settings.
SET = {
    "README.md": {"95 %", "90 %"},
    "docs/performance.md": {
        "95 %",
        *(f"{goal} times" for goal in (5, 10, 20, 30, 50, 700)),
    },
}


@pytest.mark.parametrize("page", (*PAGES, "docs/protocol.md"))
def test_numbers_in_the_prose_are_quoted(page):
    prose = CODE.sub("", QUOTED.sub("", (ROOT / page).read_text()))
    typed = {" ".join(found) for found in NUMBER.findall(prose)}
    assert typed <= SET.get(page, {"95 %"})
