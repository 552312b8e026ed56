"""The section of the paper's printed values, and ours beside them."""

from typing import Any

from markupsafe import Markup

from train.present.report.plotted import curves
from train.present.results import PRINTED, Results
from train.present.tables import paper
from train.present.tables.listed import listed


def reproduced(results: Results) -> list[dict[str, Any]]:
    """The paper's tables as `reproduce` measured them, those that it has finished."""
    found = []
    for number in results.record(PRINTED)["tables"]:
        file = f"reproduction/table{number}.json"
        if not _is_done(results, file):
            continue
        caption = f"Table {number}, rerun on CIFAR-10: paper and ours in %"
        at = f"{file}#/scale"
        about = [results.show(f"{at}/{x}", "text") for x in ("name", "about")]
        table = listed(results, "reproduced", number=number)
        found.append({"table": table.titled(caption), "about": about})
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
        "table": paper.side_by_side(results).without("the paper's value is"),
        "reproduced": reproduced(results),
        "swept": swept(results),
        "printed": paper.as_printed(results),
    }
