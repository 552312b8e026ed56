"""Figures 6, 7, 9, 11 and 12: accuracy and PSNR over settings and methods."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from splic_jax import SPLICConfig
from splic_jax.transforms import TransformConfig
from train.evaluation.cells import mean_interval
from train.present.plots import COLOURS, MARKERS, Series
from train.reproductions import drawing
from train.reproductions.cells import Wanted
from train.reproductions.networks import config_of, of_tv_weight
from train.reproductions.plan import Cells, Item
from train.reproductions.scales import Scale
from train.reproductions.tables import COLUMNS, cell, gray_box
from train.reproductions.workshop import Workshop

ESTIMATORS = {
    "SPLIC": "splic",
    "USVT": "usvt",
    "Soft-Impute": "soft_impute",
    "Nuclear norm": "nuclear_norm",
}
SMOOTHERS = {"Bilateral": "bilateral", "Guided": "guided", "SPLIC": "splic"}


def of_ranks(scale: Scale) -> Sequence[Wanted]:
    """Figure 6: clean and gray-box, before the network trained on bare images."""
    # A quarter of the side is the default; the same name for the same thing.
    configs = {
        f"{rank}": dataclasses.replace(SPLICConfig(), rank=None if rank == 8 else rank)
        for rank in scale.ranks
    }
    return [
        Wanted(row, column, "vanilla", "splic", config, threat, attack)
        for row, threat, attack in (
            ("clean", "clean", None),
            ("gray-box PGD", "gray-box", "pgd"),
        )
        for column, config in configs.items()
    ]


def of_smoothers(scale: Scale) -> Sequence[Wanted]:
    """Figure 7: white-box, each before a network trained behind it."""
    return [
        cell(row, column, name, name, "white-box", COLUMNS[column])
        for row, name in SMOOTHERS.items()
        for column in scale.smoothers
    ]


def of_tv_weights(scale: Scale) -> Sequence[Wanted]:
    """Figure 9: white-box BPDA."""
    return [
        Wanted(
            "white-box BPDA",
            f"{value:g}",
            of_tv_weight(value) if scale.retrains else "splic",
            "splic",
            dataclasses.replace(SPLICConfig(), tv_weight=value),
            "white-box",
            "pgd",
        )
        for value in scale.tv_weights
    ]


def of_keep_probabilities(scale: Scale) -> Sequence[Wanted]:
    """Figure 11: clean images, before the network trained on bare ones."""

    def config(name: str, value: float) -> TransformConfig:
        return dataclasses.replace(config_of(name), keep_probability=value)

    return [
        Wanted(row, f"{value:g}", "vanilla", name, config(name, value), "clean")
        for row, name in ESTIMATORS.items()
        for value in scale.keep_probabilities
    ]


def series_of(cells: Cells) -> tuple[list[str], list[Series]]:
    """The columns, and each row as a series over them."""
    columns = list(dict.fromkeys(cell["column"] for cell in cells))
    rows: dict[str, dict[str, Any]] = {}
    for one in cells:
        point = drawing.point_of(one["accuracy"], one["accuracy_interval"])
        rows.setdefault(one["row"], {})[one["column"]] = point
    return columns, [
        Series(row, [points.get(column) for column in columns])
        for row, points in rows.items()
    ]


def quantity(workshop: Workshop, cells: Cells) -> str:
    """The name of the vertical axis."""
    counts = sorted({cell["count"] for cell in cells})
    images = " or ".join(str(count) for count in counts)
    return f"accuracy, %\n({images} images of {workshop.dataset_name})"


def draw_curves(
    label: str, note: str, workshop: Workshop, cells: Cells, path: pathlib.Path
) -> dict[str, Any]:
    """A sweep as curves; returns what it means."""
    columns, series = series_of(cells)
    positions = [float(column) for column in columns]
    drawing.curves(path, positions, series, label, quantity(workshop, cells))
    return {"note": note}


def draw_smoothers(
    workshop: Workshop, cells: Cells, path: pathlib.Path
) -> dict[str, Any]:
    """Figure 7 as dots."""
    columns, series = series_of(cells)
    drawing.dots(path, columns, series, quantity(workshop, cells))
    return {"note": "each before a network trained behind it; derivatives by BPDA"}


def draw_psnr(workshop: Workshop, cells: Cells, path: pathlib.Path) -> dict[str, Any]:
    """Figure 12: the PSNR of every image, in the order of SPLIC's."""
    found = {
        (one["column"], one["row"]): np.asarray(one["psnr_db_by_image"], float)
        for one in cells
    }
    columns = list(dict.fromkeys(column for column, _ in found))

    def paint(figure: Figure) -> None:
        axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axis, column in zip(axes, columns, strict=True):
            order = np.argsort(found[column, "SPLIC"])
            for index, row in enumerate(("SPLIC", "SRF")):
                values, marker = found[column, row][order], MARKERS[index]
                axis.plot(
                    values, marker, color=COLOURS[index], label=row, markersize=2.5
                )
            axis.set_title({"Clean": "clean"}.get(column, "attacked (gray-box PGD)"))
            axis.set_xlabel("image, by SPLIC's PSNR")
        count = len(values)
        axes[0].set_ylabel(f"PSNR, dB\n({count} images of {workshop.dataset_name})")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=2)

    drawing.draw(path, paint, (7.0, 3.0))
    return {
        "splic_minus_srf_db": {
            column: mean_interval(found[column, "SPLIC"] - found[column, "SRF"])
            for column in columns
        }
    }


SWEEPS: Mapping[str, Item] = {
    "figure6": Item(
        "accuracy by target rank (section 3.7)",
        of_ranks,
        functools.partial(
            draw_curves,
            "target rank",
            "The paper does not say under which attack. Here no network is retrained.",
        ),
        drawing.SUFFIXES,
    ),
    "figure7": Item(
        "smoothing filters and SPLIC, white-box (section 3.8.4)",
        of_smoothers,
        draw_smoothers,
        drawing.SUFFIXES,
    ),
    "figure9": Item(
        "accuracy by weight of the total variation, white-box BPDA (section 3.9.1)",
        of_tv_weights,
        functools.partial(
            draw_curves,
            "weight of the total variation",
            "The network is the one trained at the default weight, but at scale paper, "
            "which trains one for each.",
        ),
        drawing.SUFFIXES,
    ),
    "figure11": Item(
        "clean accuracy by share of kept pixels (section 3.9.3)",
        of_keep_probabilities,
        functools.partial(
            draw_curves,
            "probability of a pixel to be kept",
            "Before the network trained on images as they are.",
        ),
        drawing.SUFFIXES,
    ),
    "figure12": Item(
        "PSNR of SRF and SPLIC (section 3.9.5)",
        functools.partial(gray_box, ("SRF", "SPLIC"), {"Clean": None, "PGD": "pgd"}),
        draw_psnr,
        drawing.SUFFIXES,
    ),
}
