"""The ten textures of the data set `shapes`.

Each function takes coordinates in periods of the pattern, and two fields of noise with
mean 0 for the irregular textures: `fine` (every pixel alone) and `coarse` (smooth over
about four pixels). It returns values in [-1, 1].
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Grid = Float[np.ndarray, "n h w"]

_TURN = 2 * np.pi


def _harden(wave: Grid) -> Grid:
    """Pushes a wave towards -1 and 1, and leaves its edges smooth."""
    return np.tanh(1.8 * wave)


def stripes(s: Grid, t: Grid, fine: Grid, coarse: Grid) -> Grid:
    return _harden(np.sin(_TURN * s))


def checks(s: Grid, t: Grid, fine: Grid, coarse: Grid) -> Grid:
    return _harden(1.5 * np.sin(_TURN / 2 * s) * np.sin(_TURN / 2 * t))


def dots(s: Grid, t: Grid, fine: Grid, coarse: Grid) -> Grid:
    return _harden(np.cos(_TURN * s) + np.cos(_TURN * t) - 0.5)


def waves(s: Grid, t: Grid, fine: Grid, coarse: Grid) -> Grid:
    return _harden(np.sin(_TURN * s + 2.5 * np.sin(_TURN / 2 * t)))


def mesh(s: Grid, t: Grid, fine: Grid, coarse: Grid) -> Grid:
    return _harden(2 * np.maximum(np.cos(_TURN * s), np.cos(_TURN * t)) - 1.2)


def bricks(s: Grid, t: Grid, fine: Grid, coarse: Grid) -> Grid:
    row = 1.5 * t
    joint = 0.7 * s + np.floor(row) / 2
    return _harden(1.2 - 2 * np.maximum(np.cos(_TURN * row), np.cos(_TURN * joint)))


def ripples(s: Grid, t: Grid, fine: Grid, coarse: Grid) -> Grid:
    return _harden(np.sin(_TURN * np.hypot(s, t)))


def rays(s: Grid, t: Grid, fine: Grid, coarse: Grid) -> Grid:
    return _harden(np.sin(8 * np.arctan2(t, s)))


def grain(s: Grid, t: Grid, fine: Grid, coarse: Grid) -> Grid:
    return _harden(fine)


def blotches(s: Grid, t: Grid, fine: Grid, coarse: Grid) -> Grid:
    return _harden(2 * coarse)


TEXTURES: dict[str, Callable[[Grid, Grid, Grid, Grid], Grid]] = {
    function.__name__: function
    for function in (
        stripes,
        checks,
        dots,
        waves,
        mesh,
        bricks,
        ripples,
        rays,
        grain,
        blotches,
    )
}
