"""A contact sheet: pictures pixel by pixel, with text above and below them.

No picture is resampled: each pixel is a square of whole pixels on the sheet. Only a
photograph's overview is reduced.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from train.utils.files import written_whole

INK, FAINT, PAPER = "#1b1e23", "#666b73", "#ffffff"
GAP, LINE = 5, 14
Colour = str


class Words(NamedTuple):
    """A line of text below or above a picture."""

    text: str
    colour: Colour = INK


class Tile(NamedTuple):
    """A picture as it stands on the sheet.

    Attributes:
        pixels: in [0, 1].
        above, below: lines of text.
        enlarged: the side of a pixel, in pixels of the sheet.
    """

    pixels: Float[np.ndarray, "h w 3"]
    above: Sequence[Words] = ()
    below: Sequence[Words] = ()
    enlarged: int = 1

    def size(self) -> tuple[int, int]:
        """Width and height on the sheet, with the text."""
        height, width = self.pixels.shape[:2]
        lines = len(self.above) + len(self.below)
        return width * self.enlarged, height * self.enlarged + LINE * lines


def image_of(pixels: Float[np.ndarray, "h w 3"]) -> Image.Image:
    """The picture in 8 bits."""
    return Image.fromarray(np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8))


def overview(
    pixels: Float[np.ndarray, "h w 3"], shown: tuple[slice, slice], width: int
) -> Float[np.ndarray, "h w 3"]:
    """A picture reduced to a width, with a frame around what is shown of it."""
    scale = width / pixels.shape[1]
    size = width, round(pixels.shape[0] * scale)
    small = image_of(pixels).resize(size, Image.Resampling.LANCZOS)
    rows, columns = shown
    ends = (columns.start, rows.start, columns.stop - 1, rows.stop - 1)
    frame = [round(end * scale) for end in ends]
    ImageDraw.Draw(small).rectangle(frame, outline=PAPER, width=2)
    return np.asarray(small, np.float32) / 255


def draw(path: pathlib.Path, rows: Sequence[Sequence[Tile | None]]) -> None:
    """Writes the sheet as PNG, whole or not at all.

    Args:
        path: the file.
        rows: tiles from left to right; None is as wide as the first tile of the sheet.
    """
    paint = _Painter()
    widths = [[tile.size()[0] if tile else 0 for tile in row] for row in rows]
    blank = max(row[0] for row in widths)
    widths = [[width or blank for width in row] for row in widths]
    heights = [max(tile.size()[1] for tile in row if tile) for row in rows]
    width = max(sum(row) + GAP * (len(row) + 1) for row in widths)
    height = sum(heights) + GAP * (len(heights) + 1)
    sheet = Image.new("RGB", (width, height), PAPER)
    top = GAP
    for row, across, high in zip(rows, widths, heights, strict=True):
        left = GAP
        for tile, wide in zip(row, across, strict=True):
            if tile:
                paint(sheet, tile, left, top)
            left += wide + GAP
        top += high + GAP
    with written_whole(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


class _Painter:
    """Puts tiles on a sheet, in one font."""

    def __init__(self) -> None:
        found = font_manager.findfont("DejaVu Sans")
        self._font = ImageFont.truetype(found, 11)

    def __call__(self, sheet: Image.Image, tile: Tile, left: int, top: int) -> None:
        brush = ImageDraw.Draw(sheet)
        image = image_of(tile.pixels)
        image = image.resize(
            (image.width * tile.enlarged, image.height * tile.enlarged),
            Image.Resampling.NEAREST,
        )
        for words in tile.above:
            brush.text((left, top), words.text, words.colour, self._font)
            top += LINE
        sheet.paste(image, (left, top))
        top += image.height + 1
        for words in tile.below:
            brush.text((left, top), words.text, words.colour, self._font)
            top += LINE
