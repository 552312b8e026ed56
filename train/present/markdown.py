"""Tables in Markdown."""

from train.present.results import Traced
from train.present.table import Code, Shown, Table

_ASCII = str.maketrans({"\N{MINUS SIGN}": "-", "\N{PLUS-MINUS SIGN}": "+- "})


def plain(shown: Shown) -> str:
    """A cell as characters that any editor and terminal has; a dash for nothing."""
    if shown is None:
        return "-"
    if isinstance(shown, Code):
        return plain(shown.text)
    text = shown.text if isinstance(shown, Traced) else shown
    return text.translate(_ASCII)


def markdown(table: Table) -> str:
    """The table, without its caption; numbers aligned right."""
    rows = [
        [f"`{plain(x)}`" if isinstance(x, Code) else plain(x) for x in row]
        for row in table.rows
    ]
    head = [column.head for column in table.columns]
    rule = ["---" if column.words else "---:" for column in table.columns]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))
