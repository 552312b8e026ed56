"""Figures on disk, PNG and SVG, in the style of `train.present.plots`."""

import pathlib
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.present.plots import COLOURS, MARKERS, STYLE, WIDTH, Point, Series
from train.utils.files import written_whole

SUFFIXES = (".png", ".svg")


def draw(
    path: pathlib.Path,
    paint: Callable[[Figure], None],
    size: tuple[float, float] = (WIDTH, 2.8),
) -> None:
    """Lets `paint` fill a figure, and writes it as PNG and SVG, whole or not at all.

    Args:
        path: without suffix.
        paint: draws into the figure.
        size: width and height in inches.
    """
    with matplotlib.rc_context({**STYLE, "savefig.transparent": False}):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        for suffix in SUFFIXES:
            options = {"metadata": {"Date": None}} if suffix == ".svg" else {"dpi": 200}
            with written_whole(path.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], **options)


def curves(
    path: pathlib.Path,
    positions: Sequence[float],
    series: Sequence[Series],
    label: str,
    quantity: str,
) -> None:
    """A line for each series over a setting, with a bar for each 95 % interval.

    Values stand evenly spaced, since those of a sweep are not.

    Args:
        path: without suffix.
        positions: values of the setting.
        series: at most four, a point for each position.
        label: name of the setting.
        quantity: of the vertical axis: quantity, unit, how many samples.
    """

    def paint(figure: Figure) -> None:
        axis = figure.subplots()
        for index, one in enumerate(series):
            _line(axis, index, range(len(positions)), one, "-")
        axis.set_xticks(range(len(positions)), [f"{x:g}" for x in positions])
        _finish(figure, axis, len(series), label, quantity)

    draw(path, paint)


def dots(
    path: pathlib.Path,
    categories: Sequence[str],
    series: Sequence[Series],
    quantity: str,
) -> None:
    """A dot with its 95 % interval for each series, side by side in each category."""

    def paint(figure: Figure) -> None:
        axis = figure.subplots()
        for index, one in enumerate(series):
            offset = 0.16 * (index - (len(series) - 1) / 2)
            _line(axis, index, np.arange(len(categories)) + offset, one, "")
        axis.set_xticks(range(len(categories)), categories)
        _finish(figure, axis, len(series), "", quantity)

    draw(path, paint)


def scatter(
    path: pathlib.Path,
    panels: Mapping[str, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Images as points of a plane, a panel for each kind; each point is its class.

    A class is told by its number, drawn at each point, as well as by colour.
    """
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(class_names)))

    def paint(figure: Figure) -> None:
        for axis, (title, points) in zip(
            np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
        ):
            for label, name in enumerate(class_names):
                chosen = points[labels == label]
                axis.scatter(
                    *chosen.T,
                    s=16,
                    linewidths=0,
                    marker=f"${label}$",
                    color=colours[label],
                    label=name,
                )
            axis.set_title(title, fontsize=8.5)
            axis.set_xticks([])
            axis.set_yticks([])
        handles, names = axis.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=5)

    draw(path, paint, (2 * WIDTH, WIDTH + 0.6))


def pictures(path: pathlib.Path, images: Mapping[str, np.ndarray]) -> None:
    """Pictures side by side, floats in [0, 1], each under its title."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots(1, len(images), squeeze=False)[0]
        for axis, (title, image) in zip(axes, images.items(), strict=True):
            axis.set_axis_off()
            axis.imshow(np.clip(image, 0, 1), interpolation="nearest")
            axis.set_title(title, fontsize=8.5)

    draw(path, paint, (1.5 * len(images), 1.8))


def _line(
    axis: Axes, index: int, places: Sequence[float], one: Series, style: str
) -> None:
    found = [(x, p) for x, p in zip(places, one.points, strict=True) if p is not None]
    axis.errorbar(
        [x for x, _ in found],
        [p.value for _, p in found],
        [[p.value - p.low for _, p in found], [p.high - p.value for _, p in found]],
        color=COLOURS[index],
        marker=MARKERS[index],
        linestyle=style,
        elinewidth=1,
        label=one.name,
    )


def _finish(figure: Figure, axis: Axes, count: int, label: str, quantity: str) -> None:
    axis.grid(False, axis="x")
    axis.set_ylim(0, None)
    axis.set_xlabel(label)
    axis.set_ylabel(quantity)
    if count > 1:
        handles, names = axis.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=count)


def point_of(accuracy: float, interval: Sequence[float]) -> Point:
    """A cell's accuracy as a point in percent."""
    return Point(100 * accuracy, 100 * interval[0], 100 * interval[1])
