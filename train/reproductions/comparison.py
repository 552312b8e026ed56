"""Our numbers beside the printed ones, with a plain word where they disagree."""

import pathlib
from collections.abc import Mapping
from typing import Any

from train.present.markdown import markdown
from train.present.results import Results
from train.present.tables import paper
from train.present.tables.listed import listed
from train.records.printed import printed_values
from train.reproductions.plan import Cells
from train.reproductions.workshop import Workshop
from train.utils.files import write_whole


def compare(cell: Mapping[str, Any], paper: float | None) -> dict[str, Any]:
    """One cell beside the printed value, all in percent.

    It "disagrees" where the printed value lies outside our 95 % interval, which knows
    nothing of the paper's own spread: that is not printed.
    """
    accuracy = 100 * cell["accuracy"]
    low, high = (100 * end for end in cell["accuracy_interval"])
    verdict = "not printed"
    if paper is not None:
        verdict = "agrees" if low <= paper <= high else "disagrees"
    return {
        "row": cell["row"],
        "column": cell["column"],
        "paper": paper,
        "ours": accuracy,
        "difference": None if paper is None else accuracy - paper,
        "interval": [low, high],
        "count": cell["count"],
        "verdict": verdict,
    }


def write_table(
    number: int, workshop: Workshop, cells: Cells, path: pathlib.Path
) -> dict[str, Any]:
    """Writes a table as Markdown; returns its comparison for the record."""
    printed = printed_values(number, workshop.dataset_name)
    rows = [compare(cell, printed.get((cell["row"], cell["column"]))) for cell in cells]
    record = {f"reproduction/table{number}.json": {"comparison": rows}}
    table = markdown(listed(Results(records=record), "reproduced", number=number))
    text = f"# Table {number}, {workshop.dataset_name}\n\n"
    text += f"{_preamble(workshop, rows)}\n\n{table}\n"
    write_whole(path.with_suffix(".md"), text.encode())
    return {"comparison": rows}


def _preamble(workshop: Workshop, rows: list[dict[str, Any]]) -> str:
    """What a reader has to know before the numbers."""
    scale = workshop.scale
    facts = [f"Scale {scale.name}: {scale.about}."]
    apart, count = paper.outside(rows)
    if count:
        facts.append(
            f"{apart} of {count} printed values disagree with ours: they lie "
            "outside our 95 % interval (Wilson), which is of the images and not of the "
            "training. Differences are in points."
        )
    else:
        facts.append(f"The paper prints nothing here for {workshop.dataset_name}.")
    return "\n".join(facts)
