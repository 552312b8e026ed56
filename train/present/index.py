"""`results/README.md`: what each file is, and the command that makes it again."""

import pathlib
import tomllib

from train.present.markdown import markdown
from train.present.results import Results
from train.present.sentences import network_of
from train.present.table import Code, Column, Table, make_table

_INDEX = tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text())
_HEAD = """# Results

Written by `.venv/bin/python -m train.quote` from what the files say of themselves; a
test fails where this page is out of step.

Answers and PSNR image by image are beside a record, in `per_image/NAME.npz` for
`NAME.json`: one array for each name that stands in a field that ends in `_by_image`
(`numpy.load(..., allow_pickle=False)`); `train.records.storing.read_record` reads both.
`train/records/schema.json` says what a record holds. A plus after a commit says that
files differed from it. Commands are run in the checkout with the Python of `.venv/bin`,
their folders shortened to the last part.
"""


def parts_of(results: Results, file: str) -> list[str]:
    """The sources of what has a provenance of its own in a file."""
    record = results.record(file)
    if "provenance" in record:
        return [f"{file}#"]
    return [f"{file}#/{name}" for name, part in record.items() if "provenance" in part]


def table(results: Results) -> Table:
    """A row for each file, or each part of it with a provenance of its own."""
    rows: list[tuple[str, str, str]] = []  # file, what it is, source
    for path in sorted(results.folder.glob("**/*.json")):
        file = path.relative_to(results.folder).as_posix()
        what = _INDEX["what"].get(file) or results.value(f"{file}#/title")
        for source in parts_of(results, file):
            part = source.partition("#/")[2]
            rows.append((f"{file}, {part}" if part else file, what, source))
    for file, source in _INDEX["pictures"].items():
        if not (results.folder / file).is_file():
            continue
        about = source.partition("#")[0]
        what = _INDEX["what"].get(about) or results.value(f"{about}#/title")
        rows.append((file, f"Picture: {what}", source))

    def fact(head: str, at: str) -> Column:
        column = Column(head, f"/provenance/{at}", words=True)
        return Column(head, lambda row: column.cell(results, row[2]), words=True)

    command = fact("command", "command")
    return make_table(
        results,
        "The files in results/",
        (
            Column("file", lambda row: Code(row[0]), words=True),
            Column("what", lambda row: row[1], words=True),
            Column(
                "network", lambda row: network_of(results.value(row[2])), words=True
            ),
            fact("commit", "commit"),
            fact("date", "date"),
            Column("command", lambda row: Code(str(command.at(row).text)), words=True),
        ),
        rows,
    )


def index(results: Results) -> str:
    """The page."""
    return f"{_HEAD}\n{markdown(table(results))}\n"
