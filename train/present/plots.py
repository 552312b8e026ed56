"""Plots for the report: one style, drawn as SVG that follows the page's colours.

    svg = intervals(["clean", "attacked"], [Series("ours", values)], "accuracy, %")

A plot is as wide as a phone's column, with text that can be read there. Series differ
in colour (Okabe and Ito's, told apart by the colour-blind too) and in marker. In the
page ink and colours are CSS variables, so that they follow dark mode.
"""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

INK, FAINT = "#1b1e23", "#c9ccd1"
# Okabe and Ito: blue, vermilion, bluish green, reddish purple.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
MARKERS = ("o", "s", "^", "D")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "grid.alpha": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
}
WIDTH = 4.2  # inches: text at 350 CSS pixels is as large as on paper, or larger
# What stands in the SVG, and what the page puts there.
_VARIABLES = {
    INK: "currentColor",
    FAINT: "var(--rule)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(COLOURS)},
}


class Point(NamedTuple):
    """A measured value and its interval."""

    value: float
    low: float
    high: float


class Series(NamedTuple):
    """Values of one kind, by category or position; None where there is none."""

    name: str
    points: Sequence[Point | None]


def intervals(
    categories: Sequence[str],
    series: Sequence[Series],
    label: str,
    limits: tuple[float, float] | None = (0, 100),
) -> str:
    """A row for each category, and in it a dot with its interval for each series.

    Args:
        categories: from top to bottom.
        series: at most three.
        label: of the horizontal axis: quantity, unit, how many samples, which interval.
        limits: of the horizontal axis; by default from the values.

    Returns:
        The figure as SVG to stand in a page; see `to_svg`.
    """
    row = 0.2 + 0.09 * len(series)
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH, row * len(categories) + 0.75), layout="constrained"
        )
        axis = figure.subplots()
        step = 0.5 / max(len(series) - 1, 1)
        for index, one in enumerate(series):
            offset = (index - (len(series) - 1) / 2) * step
            places = [
                (point, place + offset)
                for place, point in enumerate(one.points)
                if point is not None
            ]
            for point, place in places:
                axis.hlines(
                    place,
                    point.low,
                    point.high,
                    color=COLOURS[index],
                    linewidth=1.4,
                    clip_on=False,
                )
            axis.plot(
                [point.value for point, _ in places],
                [place for _, place in places],
                MARKERS[index],
                color=COLOURS[index],
                label=one.name,
                clip_on=False,  # do not clip a dot at 0
            )
        axis.set_yticks(range(len(categories)), categories)
        axis.set_ylim(len(categories) - 0.45, -0.55)
        axis.grid(False, axis="y")
        for place in range(len(categories) - 1):
            axis.axhline(place + 0.5, color=FAINT, linewidth=0.5, alpha=0.7)
        if limits:
            axis.set_xlim(*limits)
            axis.margins(x=0)
        axis.set_xlabel(label, loc="right")
        _name_series(figure, axis, series)
        return to_svg(figure)


def curves(
    positions: Sequence[float],
    series: Sequence[Series],
    label: str,
    quantity: str,
    *,
    even: bool = False,
) -> str:
    """A line for each series over a setting, with a bar for each interval.

    Args:
        positions: values of the setting.
        series: no more than there are `COLOURS`, a point for each position.
        label: name of the setting.
        quantity: of the vertical axis: quantity, unit, how many samples.
        even: set all positions the same distance apart.

    Returns:
        As `intervals`.
    """
    places = range(len(positions)) if even else positions
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
        axis = figure.subplots()
        for index, one in enumerate(series):
            found = [
                (x, p) for x, p in zip(places, one.points, strict=True) if p is not None
            ]
            axis.errorbar(
                [x for x, _ in found],
                [p.value for _, p in found],
                [
                    [p.value - p.low for _, p in found],
                    [p.high - p.value for _, p in found],
                ],
                color=COLOURS[index],
                marker=MARKERS[index],
                elinewidth=1,
                label=one.name,
            )
        axis.set_xticks(places, [f"{x:g}" for x in positions])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(False, axis="x")
        axis.set_ylim(0, None)
        axis.set_xlabel(label)
        axis.set_ylabel(quantity)
        _name_series(figure, axis, series)
        return to_svg(figure)


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element for HTML, the same for the same figure.

    It scales with its column; ink is `currentColor`, series `var(--series-0)` and so
    on, the grid `var(--rule)`. The caller gives it a name for those who do not see it.
    """
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # The page's own style sheet sets how lines join; one in here would set it for all.
    svg = re.sub(r"<(metadata|style)\b[^>]*>.*?</\1>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1)
    svg = svg.replace("font-family: 'DejaVu Sans'", "font-family: inherit")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def with_name(svg: str, name: str, alt: str) -> str:
    """Gives an SVG alternative text, and ids that no other figure of the page has.

    Args:
        svg: of `to_svg`.
        name: unique in the page.
        alt: what the figure shows, in plain words without quotation marks.
    """
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)


def _name_series(figure: Figure, axis: Axes, series: Sequence[Series]) -> None:
    if len(series) > 1:
        figure.legend(
            *axis.get_legend_handles_labels(),
            loc="outside upper left",
            ncols=len(series),
        )
