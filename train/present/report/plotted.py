"""Plots of the report, from the same results as its tables."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from train.present import plots
from train.present.plots import Point, Series
from train.present.results import Results
from train.present.tables.accuracy import NETWORKS, defense_title
from train.threats.attackers import THREATS


def point(results: Results, source: str | None) -> Point | None:
    """The accuracy of a cell and its interval, in percent."""
    if source is None:
        return None
    cell = results.value(source)
    return Point(*(100 * x for x in (cell["accuracy"], *cell["accuracy_interval"])))


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


def curves(
    results: Results,
    name: str,
    alt: str,
    found: Mapping[str, Mapping[float, str | None]],
    label: str,
    count: str,
) -> Markup:
    """Accuracies over a setting, ready for the page.

    Args:
        results: where to look.
        name, alt: of the plot.
        found: sources of cells, by series and by value of the setting.
        label: name of the setting; a weight's values stand evenly spaced.
        count: how many images.
    """
    positions = sorted({x for of in found.values() for x in of})
    series = [
        Series(title, [point(results, of.get(x)) for x in positions])
        for title, of in found.items()
    ]
    quantity = f"accuracy, % ({count} images)"
    even = label.startswith("weight")
    svg = plots.curves(positions, series, label, quantity, even=even)
    alt = f"{alt} against the {label}, with interval"
    return Markup(plots.with_name(svg, name, alt))


def by_network(
    results: Results, lists: Mapping[str, str]
) -> tuple[list[str], list[Series]]:
    """Cells of two networks side by side.

    Args:
        results: where to look.
        lists: source of each network's cells.

    Returns:
        The categories and series of a plot.
    """
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for network, source in lists.items():
        for one in results.each(source):
            cell = results.value(one)
            # BPDA is written around the attack it is used in.
            attack = cell["attack"].removeprefix("BPDA (").removesuffix(")")
            key = (cell["threat"], attack, cell["defense"])
            found.setdefault(key, {})[network] = one
    order = sorted(found, key=lambda key: (THREATS.index(key[0]), key[1]))
    categories = []
    for threat, attack, defense in order:
        several = len({key[1] for key in order if key[0] == threat}) > 1
        short = f"{threat}, {attack.split(',')[0]}" if several else threat
        categories.append(f"{short} \N{MIDDLE DOT} {defense_title(defense)}")
    series = [
        Series(
            f"trained on {NETWORKS[network]}",
            [point(results, found[key].get(network)) for key in order],
        )
        for network in lists
    ]
    return categories, series
