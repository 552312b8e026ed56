"""What the terminal shows: tables, and the registry of defences."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import rich.table

from splic_jax import METHODS
from splic_jax.transforms import as_dict


def cells_table(title: str, cells: Sequence[Mapping[str, Any]]) -> rich.table.Table:
    """The cells as a table for the terminal."""
    grid = rich.table.Table(title=title, title_justify="left")
    for heading in ("defence", "threat", "attack"):
        grid.add_column(heading)
    for heading in ("images", "accuracy", "95 % interval", "PSNR, dB"):
        grid.add_column(heading, justify="right")
    for cell in cells:
        low, high = cell["accuracy_interval"]
        psnr = cell["psnr_db"]
        grid.add_row(
            cell["defense"],
            cell["threat"],
            cell["attack"],
            str(cell["count"]),
            f"{cell['accuracy']:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{psnr['mean']:.2f}" if psnr else "-",
        )
    return grid


def list_defenses() -> str:
    """The registry in words."""
    lines = []
    for name, method in METHODS.items():
        settings = as_dict(method.config)
        del settings["method"]
        facts = [
            f"{method.title} ({method.source}): {method.idea}.",
            f"{'Random' if method.random else 'Not random'}; "
            f"{'differentiable' if method.differentiable else 'no useful derivative'}; "
            f"break it with {method.attack}.",
            " ".join(f"{field}={value}" for field, value in settings.items()),
        ]
        lines.append(name)
        for fact in facts:
            lines.append(textwrap.indent(textwrap.fill(fact, 84), "    "))
    return "\n".join(lines)
