"""One table, described once, in Markdown and on the terminal; the report is apart."""

import io

import pytest
import rich.console

from train.present.markdown import markdown
from train.present.results import Results
from train.present.table import Code, Column, make_table, sort_key
from train.present.tables.listed import LISTED
from train.present.terminal import for_terminal

RESULTS = Results(
    records={
        "r.json": {
            "rows": [
                {
                    "name": "a",
                    "share": 0.125,
                    "gap": {"mean": -1.5, "half_width": 0.25},
                },
                {"name": "b", "share": None, "gap": {"mean": 0.5, "half_width": 0.1}},
            ]
        }
    }
)


@pytest.fixture
def table():
    columns = (
        Column("name", lambda row: Code(RESULTS.value(f"{row}/name")), words=True),
        Column("share, %", "/share", "percent"),
        Column("gap", "/gap", "change"),
    )
    return make_table(RESULTS, "Shares", columns, RESULTS.each("r.json#/rows"))


def test_markdown_is_plain(table):
    assert markdown(table).splitlines() == [
        "| name | share, % | gap |",
        "| --- | ---: | ---: |",
        "| `a` | 12.5 | -1.50 +- 0.25 |",
        "| `b` | - | +0.50 +- 0.10 |",
    ]
    assert markdown(table.without("gap")).splitlines()[2] == "| `a` | 12.5 |"


def test_the_terminal_shows_the_same(table):
    console = rich.console.Console(file=io.StringIO(), width=80)
    console.print(for_terminal(table))
    text = console.file.getvalue()
    for words in ("Shares", "share, %", "12.5", "-1.50 +- 0.25"):
        assert words in text


def test_cells_know_where_they_are_from(table):
    (_, share, gap), (_, nothing, _) = table.rows
    assert (share.source, share.value) == ("r.json#/rows/0/share", 0.125)
    assert (sort_key(gap), sort_key(nothing)) == (-1.5, "")
    assert nothing is None


@pytest.mark.parametrize("name", LISTED)
def test_listed_tables_are_described_in_full(name):
    table = LISTED[name]
    assert set(table) == {"caption", "rows", "words", "columns"}
    assert all(len(column) == 3 for column in table["columns"])
    assert 0 <= table["words"] < len(table["columns"])
