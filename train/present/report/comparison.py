"""The sections of the paper's tables beside ours, and of the sweep of settings."""

from typing import Any

from markupsafe import Markup

from train.present.report.pictures import picture
from train.present.report.plotted import curves
from train.present.results import PRINTED, Results
from train.present.tables import choice, paper
from train.present.tables.listed import listed


def reproduced(results: Results) -> list[dict[str, Any]]:
    """The paper's tables as `reproduce` measured them, those that it has finished."""
    found = []
    for number in results.record(PRINTED)["tables"]:
        file = f"reproduction/table{number}.json"
        if not _is_done(results, file):
            continue
        caption = f"Table {number}, rerun on CIFAR-10: paper and ours in %"
        table = listed(results, "reproduced", number=number)
        found.append({"table": table.titled(caption), "at": f"{file}#"})
    return found


def _is_done(results: Results, file: str) -> bool:
    return (
        paper.is_finished(results, file)
        and results.value(f"{file}#/dataset/name") == "cifar10"
    )


def swept(results: Results) -> list[Markup]:
    """The paper's sweeps as `reproduce` measured them, a plot each."""
    found = []
    for number, setting in (
        (6, "target rank r"),
        (9, "weight \N{GREEK SMALL LETTER LAMDA}"),
        (11, "keep probability p"),
    ):
        file = f"reproduction/figure{number}.json"
        if not _is_done(results, file):
            continue
        rows: dict[str, dict[float, str | None]] = {}
        for source in results.each(f"{file}#/cells"):
            cell = results.value(source)
            rows.setdefault(cell["row"], {})[float(cell["column"])] = source
        alt = f"Figure {number}, rerun: accuracy"
        name = f"figure-{number}"
        found.append(curves(results, name, alt, rows, setting, cell["count"]))
    return found


def beside(results: Results) -> dict[str, Any]:
    """The paper's tables, and ours beside them."""
    return {
        "reproduced": reproduced(results),
        "swept": swept(results),
        "printed": paper.as_printed(results),
    }


def chosen(results: Results) -> dict[str, Any]:
    """The sweep behind the defaults, in front of each network that it was run for."""
    files = choice.measured(results)
    pictures = {file: file.replace(".json", ".png") for file in files}
    return {
        "near": choice.near(results, files),
        "at": f"{files[0]}#",
        "networks": [
            {
                "at": f"{file}#",
                "held_out": f"{file}#/rows/0/held_out/Clean/count",
                "sheet": picture(results, pictures[file])
                if results.has(pictures[file])
                else None,
                "by_lambda": choice.by_lambda(results, file),
                "settings": choice.settings(results, file),
                "transforms": choice.transforms(results, file),
            }
            for file in files
        ],
    }
