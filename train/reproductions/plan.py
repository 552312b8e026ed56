"""What a table or a figure consists of: cells to measure, and how they are shown."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from train.reproductions.cells import Wanted
from train.reproductions.networks import SURROGATE
from train.reproductions.scales import Scale
from train.reproductions.workshop import Workshop

Cells = Sequence[Mapping[str, Any]]


class Item(NamedTuple):
    """A table or a figure.

    Attributes:
        title: what it shows, and where the paper has it.
        cells: what is to be measured at a scale.
        networks: which networks it needs beyond those of the cells.
        finish: given the workshop, the cells and a path without suffix, writes the
            Markdown or the figure; returns more for the record.
        suffixes: of the files that it writes.
    """

    title: str
    cells: Callable[[Scale], Sequence[Wanted]]
    finish: Callable[[Workshop, Cells, pathlib.Path], dict[str, Any]]
    suffixes: tuple[str, ...]
    networks: tuple[str, ...] = ()

    def needs(self, scale: Scale) -> list[str]:
        """Every network of the item, each once, in the order of their use."""
        names = list(self.networks)
        for wanted in self.cells(scale):
            names += [SURROGATE] if wanted.threat == "black-box" else []
            names.append(wanted.network)
        return list(dict.fromkeys(names))


def no_cells(scale: Scale) -> Sequence[Wanted]:
    """For a figure that is no sum of cells."""
    del scale
    return ()


def no_finish(workshop: Workshop, cells: Cells, path: pathlib.Path) -> dict[str, Any]:
    """For an item that is its cells alone."""
    del workshop, cells, path
    return {}
