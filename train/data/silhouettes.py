"""The ten outlines of the data set `shapes`, as signed distances.

Each function takes coordinates in which its silhouette fills the unit disk (x to the
right, y up) and returns the distance to the outline, negative inside. Half planes and
disks are joined by min and cut by max, which is the distance itself but for points
outside near a corner, where it is a little less.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Grid = Float[np.ndarray, "n h w"]


def disk(x: Grid, y: Grid) -> Grid:
    return np.hypot(x, y) - 0.85


def ring(x: Grid, y: Grid) -> Grid:
    return np.abs(np.hypot(x, y) - 0.68) - 0.24


def crescent(x: Grid, y: Grid) -> Grid:
    return np.maximum(np.hypot(x, y) - 0.95, 0.72 - np.hypot(x - 0.45, y))


def leaf(x: Grid, y: Grid) -> Grid:
    return np.hypot(np.abs(x) + 0.62, y) - 1.16


def heart(x: Grid, y: Grid) -> Grid:
    """Two disks on a square that stands on its corner."""
    x = np.abs(x)
    lobe = np.hypot(x - 0.42, y - 0.3) - 0.48
    corner = np.maximum(x - y - 0.8, x + y - 0.5) / np.sqrt(2)
    return np.minimum(lobe, corner)


def triangle(x: Grid, y: Grid) -> Grid:
    return np.maximum(-y, np.sqrt(0.75) * np.abs(x) + 0.5 * y) - 0.5


def square(x: Grid, y: Grid) -> Grid:
    return np.maximum(np.abs(x), np.abs(y)) - 0.7


def star(x: Grid, y: Grid) -> Grid:
    """Folded onto a tenth of the star, whose edge runs from a tip to a notch."""
    sector = 2 * np.pi / 5
    angle = np.arctan2(x, y) + sector / 2
    angle = np.abs(angle % sector - sector / 2)
    radius = np.hypot(x, y)
    notch_x, notch_y = 0.45 * np.cos(sector / 2), 0.45 * np.sin(sector / 2)
    along, across = radius * np.cos(angle) - 1, radius * np.sin(angle)
    return (along * notch_y + across * (1 - notch_x)) / np.hypot(notch_y, 1 - notch_x)


def cross(x: Grid, y: Grid) -> Grid:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - 0.29, np.maximum(x, y) - 0.92)


def arrow(x: Grid, y: Grid) -> Grid:
    x = np.abs(x)
    shaft = np.maximum(x - 0.24, np.maximum(-y - 0.95, y - 0.2))
    head = np.maximum((x + y - 0.95) / np.sqrt(2), 0.08 - y)
    return np.minimum(shaft, head)


SILHOUETTES: dict[str, Callable[[Grid, Grid], Grid]] = {
    function.__name__: function
    for function in (
        disk,
        ring,
        crescent,
        leaf,
        heart,
        triangle,
        square,
        star,
        cross,
        arrow,
    )
}
