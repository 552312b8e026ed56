"""The sections of our own measurements: accuracy, clean and under attack."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from train import plots
from train.plots import Point, Series
from train.report import comparison
from train.report.tables import (
    NETWORKS,
    Cell,
    accuracy,
    by_network,
    defense_title,
    make_table,
)
from train.report.traced import Results, Traced


def headline(results: Results) -> dict[str, Any]:
    """A row for each situation: two data sets of ours, and the paper's CIFAR-10."""
    rows = []
    for network, defense, threat, key in (
        ("bare", "none", "clean", (1, "Vanilla", "Clean")),
        ("bare", "none", "white-box", (2, "Vanilla", "BPDA")),
        ("splic", "splic", "clean", (1, "SPLIC", "Clean")),
        ("splic", "splic", "black-box", (1, "SPLIC", "PGD")),
        ("bare", "splic", "gray-box", (3, "SPLIC", "PGD")),
        ("splic", "splic", "white-box", (2, "SPLIC", "BPDA")),
    ):
        wanted = {"defense": defense, "threat": threat}
        theirs = comparison.printed(results, *key)
        rows.append(
            [
                threat,
                Cell(defense_title(defense), f"trained on {NETWORKS[network]}"),
                accuracy(
                    results,
                    results.find(f"quickstart.json#/networks/{network}", **wanted),
                ),
                accuracy(
                    results, results.find(f"cifar10_{network}.json#/cells", **wanted)
                ),
                theirs and Cell(results.show(theirs, "printed"), f"Table {key[0]}"),
            ]
        )
    strongest = results.has("adaptive.json") and _strongest(results)
    if strongest:
        shown = _mean_cell(results, strongest)
        rows.append(
            [
                Cell("adaptive", results.show(f"{strongest}/attack", "text")),
                Cell(defense_title("splic"), f"trained on {NETWORKS['splic']}"),
                "",
                shown,
                "",
            ]
        )
    heads = ("threat", "defence, network", "shapes, %", "CIFAR-10, %", "paper, %")
    caption = "Accuracy, with its 95 % interval below"
    return {"table": make_table(caption, heads, rows, labels=2)}


def _strongest(results: Results) -> str:
    """Where the attack stands that leaves least."""
    rows = results.each("adaptive.json#/rows")
    return min(rows, key=lambda row: results.value(row)["accuracy"]["mean"])


def _mean_cell(results: Results, source: str) -> Cell:
    return Cell(
        results.show(f"{source}/accuracy/mean", "percent"),
        results.show(f"{source}/accuracy", "plus-minus"),
    )


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
            "number": _mean_cell(results, source),
            "attack": results.value(f"{source}/steps")
            and results.show(f"{source}/attack", "text"),
        }
        for title, source in rows.items()
        if source
    ]
    return {
        "steps": steps,
        "printed": results.show(
            comparison.printed(results, 2, "SPLIC", "BPDA"), "printed"
        ),
    }


def dots(
    name: str,
    alt: str,
    categories: Sequence[str],
    series: Sequence[Series],
    count: str,
) -> Markup:
    """A plot of accuracies, ready for the page."""
    label = f"accuracy, % ({count} images, 95 % interval)"
    svg = plots.intervals(categories, series, label)
    return Markup(plots.with_name(svg, name, alt))


def quickstart(results: Results) -> dict[str, Any]:
    """The quickstart's table and plot."""
    lists = {name: f"quickstart.json#/networks/{name}" for name in NETWORKS}
    table, categories, series = by_network(results, lists)
    count = results.show("quickstart.json#/dataset/count", "integer").text
    alt = (
        "Dot plot of the accuracies in the table, one row for each threat and defence, "
        "one dot with its interval for each of the two networks"
    )
    return {
        "table": table,
        "plot": dots("quickstart", alt, categories, series, count),
        "at": "quickstart.json#",
    }


def cifar10(results: Results) -> dict[str, Any]:
    """CIFAR-10: the same, and what the total variation does to the PSNR."""
    lists = {name: f"cifar10_{name}.json#/cells" for name in NETWORKS}
    table, categories, series = by_network(results, lists)
    count = results.show("cifar10_bare.json#/dataset/count", "integer").text
    alt = (
        "Dot plot of the accuracies on CIFAR-10 in the table, one row for each threat "
        "and defence, one dot with its interval for each of the two networks"
    )
    gaps = []
    for threat, images in (("clean", "clean images"), ("gray-box", "attacked images")):
        source = results.find(
            "cifar10_bare.json#/comparisons", other="splic_no_tv", threat=threat
        )
        if source and results.value(source)["psnr_difference_db"]:
            shown = results.show(f"{source}/psnr_difference_db", "change")
            gaps.append({"images": images, "change": shown})
    return {
        "table": table,
        "plot": dots("cifar10", alt, categories, series, count),
        "at": "cifar10_bare.json#",
        "attack": _attack(results, lists["bare"]),
        "gaps": gaps,
    }


def _attack(results: Results, source: str) -> Traced | str:
    """What the bare network was attacked with."""
    cell = results.find(source, defense="none", threat="white-box")
    return results.show(f"{cell}/attack", "text") if cell else ""


def adaptive(results: Results) -> dict[str, Any]:
    """What attacks that know the defence leave, at equal budgets."""
    rows, names, means, votes = [], [], [], []
    for source in results.each("adaptive.json#/rows"):
        row = results.value(source)
        rows.append(
            [
                Cell(
                    results.show(f"{source}/attack", "text"), _budget(results, source)
                ),
                _mean_cell(results, source),
                results.show(f"{source}/majority", "percent"),
            ]
        )
        mean, half = (100 * row["accuracy"][x] for x in ("mean", "half_width"))
        names.append(row["attack"])
        means.append(Point(mean, mean - half, mean + half))
        votes.append(Point(*3 * [100 * row["majority"]]))
    heads = ("attack through", "accuracy, %", "by vote, %")
    count = results.show("adaptive.json#/dataset/count", "integer").text
    series = [Series("mean over masks", means), Series("majority vote", votes)]
    alt = (
        "Dot plot of the accuracy that each attack in the table leaves: the mean over "
        "masks with its interval, and the majority vote"
    )
    return {
        "table": make_table("What is left under attack", heads, rows),
        "plot": dots("adaptive", alt, names, series, count),
        "at": "adaptive.json#",
    }


def _budget(results: Results, source: str) -> Markup | str:
    if results.value(f"{source}/steps") is None:
        return ""
    masks = results.show(f"{source}/masks_a_step", "integer")
    return Markup("{} steps, {} {} a step").format(
        results.show(f"{source}/steps", "integer"),
        masks,
        "mask" if masks.value == 1 else "masks",
    )


def cue_conflict(results: Results) -> dict[str, Any]:
    """Accuracy by shape where shape and texture disagree."""
    lists = {name: f"cue_conflict_{name}.json#/cells" for name in NETWORKS}
    table, categories, series = by_network(results, lists)
    count = results.show("cue_conflict_bare.json#/dataset/count", "integer").text
    names = [name.removeprefix("clean \N{MIDDLE DOT} ") for name in categories]
    alt = (
        "Dot plot of the accuracies in the table, one row for each defence, one dot "
        "with its interval for each of the two networks"
    )
    return {
        "table": table,
        "plot": dots("cue", alt, names, series, count),
        "at": "cue_conflict_bare.json#",
    }
