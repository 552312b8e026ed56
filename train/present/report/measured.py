"""The sections of our own measurements: accuracy, clean and under attack."""

from collections.abc import Mapping
from typing import Any

from train.present.plots import Point, Series
from train.present.report.plotted import by_network, dots
from train.present.results import Results
from train.present.table import Column, Shown, Table, make_table
from train.present.tables import accuracy, paper
from train.present.tables.accuracy import NETWORKS
from train.present.tables.listed import listed

# What is known to the attacker, and our cell: table, row, column.
_HEADLINE = (
    ("clean", 1, "Vanilla", "Clean"),
    ("white-box", 2, "Vanilla", "BPDA"),
    ("gray-box", 3, "SPLIC", "FGSM"),
    ("gray-box", 3, "SPLIC", "PGD"),
    ("gray-box", 3, "SPLIC, lambda as printed", "PGD"),
    ("gray-box", 3, "TV minimisation", "PGD"),
    ("gray-box", 3, "JPEG", "PGD"),
    ("clean", 1, "SPLIC", "Clean"),
    ("black-box", 1, "SPLIC", "PGD"),
    ("white-box", 2, "SPLIC", "BPDA"),
    ("adaptive", 2, "SPLIC", "EOT"),
    ("adaptive", 2, "SPLIC", "gradient EOT"),
)


def headline(results: Results) -> dict[str, Any]:
    """A row for each situation that Tables 1 to 3 have been measured in."""
    found = {
        row: source for row in _HEADLINE if (source := paper.ours(results, *row[1:]))
    }

    def defense(row: tuple[str, int, str, str]) -> str:
        return "none" if row[2] == "Vanilla" else row[2]

    def trained_on(row: tuple[str, int, str, str]) -> str:
        # Table 3 puts a defence before a network that does not know it.
        bare = row[1] == 3 or defense(row) == "none"
        return NETWORKS["bare" if bare else "splic"]

    def model(row: tuple[str, int, str, str]) -> Shown:
        at = f"{paper.file_of(row[1])}#/scale/model"
        given = f"{paper.file_of(row[1])}#/given/model"
        return results.show(given if results.get(given) else at, "text")

    def printed(row: tuple[str, int, str, str]) -> Shown:
        source = paper.printed(results, *row[1:])
        return results.show(source, "printed") if source else ""

    numbers = sorted({number for _, number, *_ in found})
    tables = {number: f"{paper.file_of(number)}#" for number in numbers}
    scales = {results.value(f"{at}/scale/about"): at for at in tables.values()}
    return {
        "table": make_table(
            results,
            "Accuracy on CIFAR-10, with its 95 % interval below",
            (
                Column("threat", lambda row: row[0], words=True),
                Column("attack", lambda row: row[3], words=True),
                Column("defence", defense, words=True),
                Column("network", model, words=True),
                Column("trained on", trained_on, words=True),
                Column("ours, %", lambda row: results.show(found[row], "accuracy")),
                Column(
                    "images",
                    lambda row: results.show(f"{found[row]}/count", "integer"),
                ),
                Column("paper, %", printed),
                Column("table", lambda row: f"Table {row[1]}", words=True),
            ),
            found,
        ),
        "tables": tables,
        "scales": scales.values(),
    }


def _strongest(results: Results) -> str:
    """Where the attack stands that leaves least."""
    rows = results.each("adaptive.json#/rows")
    return min(rows, key=lambda row: results.value(row)["accuracy"]["mean"])


def hero(results: Results) -> dict[str, Any] | None:
    """What is left of an accuracy as the attacker learns more, in three numbers."""
    if not results.has("adaptive.json"):
        return None
    rows = {
        "Nobody attacks": results.find("adaptive.json#/rows", attack="no attack"),
        "The attacker knows the network": results.find(
            "adaptive.json#/rows", attack="network alone"
        ),
        "The attacker knows the defence too": _strongest(results),
    }
    steps = [
        {
            "title": title,
            "mean": results.show(f"{source}/accuracy/mean", "percent"),
            "half_width": results.show(f"{source}/accuracy", "plus-minus"),
            "attack": results.get(f"{source}/steps")
            and results.show(f"{source}/attack", "text"),
        }
        for title, source in rows.items()
        if source
    ]
    printed = paper.printed(results, 2, "SPLIC", "BPDA")
    return {"steps": steps, "printed": results.show(printed, "printed")}


def _both_networks(
    results: Results, name: str, lists: Mapping[str, str], file: str
) -> dict[str, Any]:
    """A table of both networks' cells, and a plot of it."""
    categories, series = by_network(results, lists)
    # Where nobody attacks at all, that need not be said in each row.
    if all(category.startswith("clean") for category in categories):
        categories = [x.removeprefix("clean \N{MIDDLE DOT} ") for x in categories]
    alt = (
        "Dot plot of the accuracies in the table, one row for each threat and defence, "
        "one dot with its interval for each of the two networks"
    )
    count = results.show(f"{file}#/dataset/count", "integer").text
    return {
        "table": _short(accuracy.cells(results, lists)),
        "plot": dots(name, alt, categories, series, count),
        "at": f"{file}#",
    }


def _short(table: Table) -> Table:
    return table.without("attack", "images", "PSNR, dB")


def quickstart(results: Results) -> dict[str, Any]:
    """The quickstart's table and plot."""
    lists = {name: f"quickstart.json#/networks/{name}" for name in NETWORKS}
    return _both_networks(results, "quickstart", lists, "quickstart.json")


def adaptive(results: Results) -> dict[str, Any]:
    """What attacks that know the defence leave, at equal budgets."""
    names, means, votes = [], [], []
    for row in results.value("adaptive.json#/rows"):
        mean, half = (100 * row["accuracy"][x] for x in ("mean", "half_width"))
        names.append(row["attack"])
        means.append(Point(mean, mean - half, mean + half))
        votes.append(Point(*3 * [100 * row["majority"]]))
    count = results.show("adaptive.json#/dataset/count", "integer").text
    series = [Series("mean over masks", means), Series("majority vote", votes)]
    alt = (
        "Dot plot of the accuracy that each attack in the table leaves: the mean over "
        "masks with its interval, and the majority vote"
    )
    return {
        "table": listed(results, "adaptive"),
        "plot": dots("adaptive", alt, names, series, count),
        "at": "adaptive.json#",
    }


def cue_conflict(results: Results) -> dict[str, Any]:
    """Accuracy by shape where shape and texture disagree."""
    lists = {name: f"cue_conflict_{name}.json#/cells" for name in NETWORKS}
    return _both_networks(results, "cue", lists, "cue_conflict_bare.json")
