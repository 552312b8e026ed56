"""Tables of the report, as plain data for the template."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from splic_jax import METHODS
from train.present.plots import Point, Series
from train.present.report.traced import Results, Traced
from train.threats.attackers import ATTACKS_OF

NETWORKS = {"bare": "images as they are", "splic": "purified images"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one cell of a table shows: a text or a number, and a small note below."""

    main: str | Traced = ""
    note: str | Traced | Markup = ""
    code: bool = False

    @property
    def key(self) -> Any:
        """What a column is sorted by."""
        return self.main.value if isinstance(self.main, Traced) else self.main

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.main


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose first `labels` columns are words and the others numbers."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    labels: int = 1


def make_table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[Cell | Traced | str | None]],
    labels: int = 1,
) -> Table:
    """A table of cells, or of what is put in one; None leaves a cell empty."""
    cells = tuple(
        tuple(x if isinstance(x, Cell) else Cell(x or "") for x in row) for row in rows
    )
    return Table(caption, tuple(heads), cells, labels)


def defense_title(name: str) -> str:
    """What a defence is called on the page."""
    return "none" if name == "none" else METHODS[name].title


def accuracy(results: Results, source: str | None) -> Cell:
    """The accuracy of a measured cell, with its interval below."""
    if source is None:
        return Cell()
    return Cell(
        results.show(f"{source}/accuracy", "percent"),
        results.show(f"{source}/accuracy_interval", "interval"),
    )


def point(results: Results, source: str | None) -> Point | None:
    """The same for a plot, in percent."""
    if source is None:
        return None
    cell = results.value(source)
    return Point(*(100 * x for x in (cell["accuracy"], *cell["accuracy_interval"])))


def by_network(
    results: Results, lists: Mapping[str, str]
) -> tuple[Table, list[str], list[Series]]:
    """Cells of two networks side by side, for a table and for a plot.

    Args:
        results: where to look.
        lists: source of each network's cells.

    Returns:
        The table, and the categories and series of a plot.
    """
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    attacks: dict[str, set[str]] = {}
    for network, source in lists.items():
        for one in results.each(source):
            cell = results.value(one)
            # BPDA is written around the attack it is used in.
            attack = cell["attack"].removeprefix("BPDA (").removesuffix(")")
            key = (cell["threat"], attack, cell["defense"])
            found.setdefault(key, {})[network] = one
            attacks.setdefault(cell["threat"], set()).add(attack)
    order = sorted(found, key=lambda key: (tuple(ATTACKS_OF).index(key[0]), key[1]))
    rows, categories = [], []
    for threat, attack, defense in order:
        sources = found[threat, attack, defense]
        several = len(attacks[threat]) > 1
        first = next(iter(sources.values()))
        note = results.show(f"{first}/attack", "text") if several else ""
        name = defense_title(defense)
        rows.append(
            [
                Cell(threat, note),
                name,
                *(accuracy(results, sources.get(network)) for network in lists),
            ]
        )
        short = f"{threat}, {attack.split(',')[0]}" if several else threat
        categories.append(f"{short} \N{MIDDLE DOT} {name}")
    heads = ("threat", "defence", *(f"trained on {NETWORKS[n]}, %" for n in lists))
    table = make_table("Accuracy, with its interval below", heads, rows, labels=2)
    series = [
        Series(
            f"trained on {NETWORKS[network]}",
            [point(results, found[key].get(network)) for key in order],
        )
        for network in lists
    ]
    return table, categories, series
