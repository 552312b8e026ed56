"""A table described once: its columns with their units, and where its numbers are from.

    make_table(
        results,
        "What is left under attack",
        (Column("attack through", "/attack", "text", words=True),
         Column("accuracy, %", "/accuracy", "mean share")),
        results.each("adaptive.json#/rows"),
    )

`train.present.markdown`, `train.present.terminal` and the templates of the report write
it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from train.present.results import Results, Traced


@dataclasses.dataclass(frozen=True)
class Code:
    """Text that is set as code."""

    text: str | Traced


# What stands in one cell; None where there is nothing to be measured.
Shown = str | Traced | Code | None


def sort_key(shown: Shown) -> Any:
    """What a column is sorted by; "" for nothing."""
    if isinstance(shown, Code):
        return sort_key(shown.text)
    return shown.value if isinstance(shown, Traced) else shown or ""


@dataclasses.dataclass(frozen=True)
class Column:
    """What a column shows of the entry of a file that is its row.

    Attributes:
        head: its name, with the unit.
        at: the JSON pointer below the entry, or several with spaces between; or a
            function that makes the cell from the row.
        format: one of `train.present.results.FORMATS`.
        words: its cells are words, not numbers.
    """

    head: str
    at: str | Callable[[Any], Shown] = ""
    format: str = "text"
    words: bool = False

    def cell(self, results: Results, row: Any) -> Shown:
        """What the column shows of a row; nothing where the row has no value."""
        if callable(self.at):
            return self.at(row)
        source, *others = (f"{row}{at}" for at in self.at.split(" "))
        if row is None or any(results.get(x) is None for x in (source, *others)):
            return None
        shown = results.show(source, self.format, *others)
        code = self.format == "settings" and results.get(source)
        return Code(shown) if code else shown


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells below heads.

    Attributes:
        caption: what it shows.
        columns: its columns.
        rows: a cell for each column.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Shown, ...], ...]

    def titled(self, caption: str) -> "Table":
        """The table under another caption."""
        return dataclasses.replace(self, caption=caption)

    def with_column(
        self, place: int, column: Column, cells: Sequence[Shown]
    ) -> "Table":
        """The table with another column, a cell for each row."""
        return Table(
            self.caption,
            (*self.columns[:place], column, *self.columns[place:]),
            tuple(
                (*row[:place], cell, *row[place:])
                for row, cell in zip(self.rows, cells, strict=True)
            ),
        )

    def without(self, *heads: str) -> "Table":
        """The table less some columns."""
        kept = [i for i, column in enumerate(self.columns) if column.head not in heads]
        return Table(
            self.caption,
            tuple(self.columns[i] for i in kept),
            tuple(tuple(row[i] for i in kept) for row in self.rows),
        )


def make_table(
    results: Results, caption: str, columns: Sequence[Column], rows: Iterable[Any]
) -> Table:
    """A table with a row for each entry of a file, or for each value for `at`."""
    return Table(
        caption,
        tuple(columns),
        tuple(tuple(column.cell(results, row) for column in columns) for row in rows),
    )
