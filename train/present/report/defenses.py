"""The section of all defences in front of one network."""

from typing import Any

from markupsafe import Markup

from train.present.plots import Series
from train.present.report.plotted import curves, dots, point
from train.present.results import Results
from train.present.tables import defenses as tables
from train.present.tables.accuracy import defense_title
from train.present.tables.defenses import FILE, cells_of


def defenses(results: Results) -> dict[str, Any]:
    """Every defence in front of one network, gray-box."""
    rows = {**cells_of(results, "bare"), **tables.ordered_methods(results)}
    count = results.show(f"{FILE}#/dataset/count", "integer").text
    series = [
        Series(title, [point(results, cells.get(attack)) for cells in rows.values()])
        for title, attack in (("clean", "none"), ("FGSM", "FGSM"), ("PGD", "PGD-7"))
    ]
    alt = (
        "Dot plot of the accuracies in the table, one row for each defence, with a dot "
        "and its interval without attack, under FGSM and under PGD"
    )
    splic = results.find(f"{FILE}#/costs", defense="splic")
    return {
        "table": tables.methods(results),
        "plot": dots("defenses", alt, [*map(defense_title, rows)], series, count),
        "at": f"{FILE}#",
        "seconds": splic and results.show(f"{splic}/seconds", "milliseconds"),
        "registry": tables.registry(results).without(
            "idea", "source", "how to break it"
        ),
        "sweeps": _sweeps(results, count),
        "sweep_table": tables.sweeps(results),
        "votes_table": tables.votes(results),
    }


def _sweeps(results: Results, count: str) -> list[Markup]:
    """A plot for each setting that is a number."""
    figures, swept = [], cells_of(results, "sweeps")
    # Of every image set that the paper names, where the network does not say.
    side = results.get(f"{FILE}#/network/training_set/image_shape/0") or 32
    for field, words in (
        ("rank", "rank r"),
        ("tv_weight", "weight \N{GREEK SMALL LETTER LAMDA}"),
        ("keep_probability", "keep probability p"),
    ):
        found = {
            float(name.partition("=")[2]): cells
            for name, cells in swept.items()
            if name.startswith(f"{field}=")
        }
        if not found:
            continue
        default = results.get(f"{FILE}#/settings/splic/{field}")
        found[float(side // 4 if default is None else default)] = cells_of(
            results, "methods"
        )["splic"]
        series = {
            title: {x: cells.get(attack) for x, cells in found.items()}
            for title, attack in (("clean", "none"), ("PGD, gray-box", "PGD-7"))
        }
        alt = "Accuracy without attack and under PGD"
        figures.append(curves(results, f"sweep-{field}", alt, series, words, count))
    return figures
