"""Our numbers beside the printed ones, with a plain word where they disagree."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from train.present.markdown import markdown_table
from train.reproductions.plan import Cells
from train.reproductions.workshop import Workshop
from train.utils.files import write_whole

PRINTED = pathlib.Path(__file__).parents[1] / "records" / "printed.json"
# What the paper calls a data set; it has no others.
DATASETS = {"cifar10": "CIFAR-10", "svhn_cropped": "SVHN"}


def printed_values(table: int, dataset: str) -> dict[tuple[str, str], float | None]:
    """A table as printed: (method, column) to percent; None where it has a dash."""
    return {
        (value["method"], value["column"]): value["value"]
        for value in json.loads(PRINTED.read_text())["values"]
        if (value["table"], value["dataset"]) == (table, DATASETS.get(dataset))
    }


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
    text = f"# Table {number}, {workshop.dataset_name}\n\n"
    text += _preamble(workshop, rows) + "\n\n"
    heads = "method, column, paper, ours, difference, 95 % interval, images, verdict"
    lines = [heads.split(", ")]
    for row in rows:
        paper, difference = row["paper"], row["difference"]
        low, high = row["interval"]
        lines.append(
            [
                row["row"],
                row["column"],
                "-" if paper is None else f"{paper:.1f} %",
                f"{row['ours']:.1f} %",
                "-" if difference is None else f"{difference:+.1f}",
                f"{low:.1f} to {high:.1f}",
                str(row["count"]),
                row["verdict"],
            ]
        )
    text += markdown_table(lines, 2) + "\n"
    write_whole(path.with_suffix(".md"), text.encode())
    return {"comparison": rows}


def _preamble(workshop: Workshop, rows: list[dict[str, Any]]) -> str:
    """What a reader has to know before the numbers."""
    scale = workshop.scale
    facts = [f"Scale {scale.name}: {scale.about}."]
    compared = [row for row in rows if row["paper"] is not None]
    if compared:
        apart = sum(row["verdict"] == "disagrees" for row in compared)
        facts.append(
            f"{apart} of {len(compared)} printed values disagree with ours: they lie "
            "outside our 95 % interval (Wilson), which is of the images and not of the "
            "training. Differences are in points."
        )
    else:
        facts.append(f"The paper prints nothing here for {workshop.dataset_name}.")
    return "\n".join(facts)
