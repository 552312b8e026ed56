"""Tables of which each row is an entry of one list; `listed.toml` describes them."""

import pathlib
import tomllib

from train.present.results import Results
from train.present.table import Column, Table, make_table

LISTED = tomllib.loads(pathlib.Path(__file__).with_name("listed.toml").read_text())


def listed(results: Results, name: str, **places: object) -> Table:
    """A table of `listed.toml`; `places` fills in the source of its rows."""
    table = LISTED[name]
    columns = [
        Column(head, at, format, words=i < table["words"])
        for i, (head, at, format) in enumerate(table["columns"])
    ]
    rows = results.each(table["rows"].format(**places))
    return make_table(results, table["caption"], columns, rows)
