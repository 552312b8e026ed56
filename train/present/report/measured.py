"""The sections of our own measurements: accuracy, clean and under attack."""

from collections.abc import Mapping
from typing import Any

from train.present.plots import Point, Series
from train.present.report.plotted import by_network, dots
from train.present.results import Results, Traced
from train.present.table import Column, Shown, Table, make_table
from train.present.tables import accuracy, paper
from train.present.tables.accuracy import NETWORKS, defense_title
from train.present.tables.listed import listed

# Network, defence and threat of a row, and what the paper prints of it.
_HEADLINE = (
    ("bare", "none", "clean", (1, "Vanilla", "Clean")),
    ("bare", "none", "white-box", (2, "Vanilla", "BPDA")),
    ("splic", "splic", "clean", (1, "SPLIC", "Clean")),
    ("splic", "splic", "black-box", (1, "SPLIC", "PGD")),
    ("bare", "splic", "gray-box", (3, "SPLIC", "PGD")),
    ("splic", "splic", "white-box", (2, "SPLIC", "BPDA")),
    ("splic", "splic", "adaptive", None),
)


def headline(results: Results) -> dict[str, Any]:
    """A row for each situation: two data sets of ours, and the paper's CIFAR-10."""
    strongest = results.has("adaptive.json") and _strongest(results)

    def ours(head: str, place: str) -> Column:
        def cell(row: tuple) -> Shown:
            network, defense, threat, _ = row
            if threat == "adaptive":
                if head != "CIFAR-10, %":
                    return ""
                return results.show(f"{strongest}/accuracy", "mean accuracy")
            wanted = {"defense": defense, "threat": threat}
            found = results.find(place.format(network), **wanted)
            return found and results.show(found, "accuracy")

        return Column(head, cell)

    def printed(row: tuple) -> Shown:
        source = row[3] and paper.printed(results, *row[3])
        return results.show(source, "printed") if source else ""

    table = make_table(
        results,
        "Accuracy, with its 95 % interval below",
        (
            Column("threat", lambda row: row[2], words=True),
            Column("defence", lambda row: defense_title(row[1]), words=True),
            Column("network trained on", lambda row: NETWORKS[row[0]], words=True),
            ours("shapes, %", "quickstart.json#/networks/{}"),
            ours("CIFAR-10, %", "cifar10_{}.json#/cells"),
            Column("paper, %", printed),
            Column(
                "paper's table",
                lambda row: f"Table {row[3][0]}" if row[3] else "",
                words=True,
            ),
        ),
        [row for row in _HEADLINE if row[2] != "adaptive" or strongest],
    )
    return {"table": table}


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
    results: Results, name: str, what: str, lists: Mapping[str, str], file: str
) -> dict[str, Any]:
    """A table of both networks' cells, and a plot of it."""
    categories, series = by_network(results, lists)
    # Where nobody attacks at all, that need not be said in each row.
    if all(category.startswith("clean") for category in categories):
        categories = [x.removeprefix("clean \N{MIDDLE DOT} ") for x in categories]
    alt = (
        f"Dot plot of the accuracies{what} in the table, one row for each threat and "
        "defence, one dot with its interval for each of the two networks"
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
    return _both_networks(results, "quickstart", "", lists, "quickstart.json")


def cifar10(results: Results) -> dict[str, Any]:
    """CIFAR-10: the same, and what the total variation does to the PSNR."""
    file = "cifar10_bare.json"
    lists = {name: f"cifar10_{name}.json#/cells" for name in NETWORKS}
    gaps = []
    for threat, images in (("clean", "clean images"), ("gray-box", "attacked images")):
        row = results.find(f"{file}#/comparisons", other="splic_no_tv", threat=threat)
        if row and results.get(f"{row}/psnr_difference_db"):
            shown = results.show(f"{row}/psnr_difference_db", "change")
            gaps.append({"images": images, "change": shown})
    return {
        **_both_networks(results, "cifar10", " on CIFAR-10", lists, file),
        "attack": _attack(results, lists["bare"]),
        "gaps": gaps,
    }


def _attack(results: Results, source: str) -> Traced | str:
    """What the bare network was attacked with."""
    cell = results.find(source, defense="none", threat="white-box")
    return results.show(f"{cell}/attack", "text") if cell else ""


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
    return _both_networks(results, "cue", "", lists, "cue_conflict_bare.json")
