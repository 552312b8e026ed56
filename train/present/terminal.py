"""Tables for the terminal."""

import rich.table

from train.present.markdown import plain
from train.present.table import Table


def for_terminal(table: Table) -> rich.table.Table:
    """The table below its caption; numbers are set right."""
    grid = rich.table.Table(title=table.caption or None, title_justify="left")
    for column in table.columns:
        grid.add_column(column.head, justify="left" if column.words else "right")
    for row in table.rows:
        grid.add_row(*map(plain, row))
    return grid
