"""Tables for the terminal."""

from collections.abc import Iterable, Sequence

import rich.console
import rich.table

from train.present.markdown import plain
from train.present.table import Column, Shown, Table


def for_terminal(table: Table) -> rich.table.Table:
    """The table below its caption, numbers aligned right."""
    grid = rich.table.Table(title=table.caption or None, title_justify="left")
    for column in table.columns:
        grid.add_column(column.head, justify="left" if column.words else "right")
    for row in table.rows:
        grid.add_row(*map(plain, row))
    return grid


def print_table(table: Table) -> None:
    """Prints the table."""
    rich.console.Console().print(for_terminal(table))


def print_rows(
    caption: str,
    words: Sequence[str],
    numbers: Sequence[str],
    rows: Iterable[Sequence[Shown]],
) -> None:
    """Prints a table of columns of words, then columns of numbers.

    Args:
        caption: what it shows, or "".
        words, numbers: the heads of these columns.
        rows: a cell for each column.
    """
    columns = [Column(head, words=True) for head in words]
    columns += [Column(head) for head in numbers]
    print_table(Table(caption, tuple(columns), tuple(tuple(row) for row in rows)))
