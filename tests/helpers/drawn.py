"""What can be read back from a figure: its words, its colours, its framed pictures."""

import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.ndimage
from PIL import Image

from train.present.figure import RIGHT, WRONG

# Of a picture's side in `train.present.figure`; letters are smaller.
_LEAST_FRAME = 50


def words_of(path: pathlib.Path) -> list[str]:
    """The texts of an SVG, in its order."""
    return [
        re.sub(r"<[^>]*>", "", text).strip()
        for text in re.findall(
            r"<text\b[^>]*>(.*?)</text>", path.read_text(), re.DOTALL
        )
    ]


def colours_in(path: pathlib.Path, colours: Iterable[str]) -> list[str]:
    """Those of the colours, such as "#0072b2", that a PNG has."""
    return [colour for colour in colours if _where(path, colour).sum() > 20]


def frames_in(path: pathlib.Path) -> tuple[int, int]:
    """How many pictures of a grid are framed as right, and as wrong."""
    return _frames(path, RIGHT), _frames(path, WRONG)


def expected_frames(predicted: Sequence[Sequence[int]], labels: Sequence[int]):
    """What `frames_in` must find for the answers of each row."""
    right = sum(
        int(a == b) for row in predicted for a, b in zip(row, labels, strict=True)
    )
    return right, len(predicted) * len(labels) - right


def _frames(path: pathlib.Path, colour: str) -> int:
    found, _ = scipy.ndimage.label(_where(path, colour), np.ones((3, 3)))
    return sum(
        min(place.stop - place.start for place in places) > _LEAST_FRAME
        for places in scipy.ndimage.find_objects(found)
    )


def _where(path: pathlib.Path, colour: str) -> np.ndarray:
    """Where a PNG has a colour."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.abs(pixels - wanted).max(axis=-1) < 8
