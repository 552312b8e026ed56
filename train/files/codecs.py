"""Picture files as arrays and back, through Pillow.

The values of the pixels come back exactly from PNG, WebP, BMP and TIFF, which are
written without loss; JPEG is written with quality 95 and without subsampling, and GIF
has 256 colours. Of the rest of a file only the colour profile is kept.
"""

import contextlib
import io
import pathlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps

FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "TIFF": {"compression": "tiff_deflate"},
    "WEBP": {"lossless": True, "exact": True},
}
_MODES = {
    "BMP": ("L", "RGB"),
    "GIF": ("L", "LA", "RGB", "RGBA"),
    "JPEG": ("L", "RGB"),
    "PNG": ("L", "LA", "RGB", "RGBA", "I;16"),
    "TIFF": ("L", "LA", "RGB", "RGBA", "I;16"),
    "WEBP": ("L", "LA", "RGB", "RGBA"),
}


class PictureError(Exception):
    """Why a picture cannot be read or written, as half a sentence."""


class Picture(NamedTuple):
    """A picture's pixels and what goes with them.

    Attributes:
        pixels: ``[h, w, c]``: grey, grey and alpha, RGB or RGBA. uint8, or float32 in
            [0, 1] for the 16-bit grey that PNG and TIFF have.
        profile: the ICC colour profile, if there is one.
        note: what of the file is not in the pixels, or "".
    """

    pixels: Shaped[np.ndarray, "h w c"]
    profile: bytes | None = None
    note: str = ""


def decode(data: bytes) -> Picture:
    """Reads a picture: upright as its EXIF says, the first if there are several.

    Palettes, CMYK and the like become RGB, and RGBA where something is transparent.

    Raises:
        PictureError: for what is no picture, is damaged or too large, or has pixels
            of 32 bits, which have no range.
    """
    if not data:
        raise PictureError("the file is empty")
    with _reading(), Image.open(io.BytesIO(data), formats=[*_MODES]) as image:
        note = _note(image)
        profile = image.info.get("icc_profile")
        if image.mode in ("CMYK", "LAB", "YCbCr"):
            profile = None  # describes the colours before conversion
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            # The type says in which order Pillow left the bytes.
            pixels = (np.asarray(image) / 65535).astype(np.float32)
            return Picture(pixels[..., None], profile, note)
        if image.mode in ("I", "F"):
            raise PictureError(
                "its pixels have 32 bits and no range; save it with 8 or 16"
            )
        grey = image.mode in ("1", "L", "LA", "La")
        mode = ("L" if grey else "RGB") + ("A" if image.has_transparency_data else "")
        pixels = np.array(image if image.mode == mode else image.convert(mode))
        return Picture(pixels if pixels.ndim == 3 else pixels[..., None], profile, note)


def check_writable(picture: Picture, path: pathlib.Path) -> None:
    """Raises PictureError if the format of `path`, by its suffix, cannot hold it."""
    mode, format = _mode(picture), FORMATS[path.suffix.lower()]
    if mode not in _MODES[format]:
        what = "16 bits" if mode == "I;16" else "transparency"
        raise PictureError(f"{format} cannot hold its {what}; PNG and TIFF can")


def encode(picture: Picture, path: pathlib.Path) -> bytes:
    """Encodes a picture in the format that the suffix of `path` names.

    Raises:
        PictureError: if that format cannot hold it.
    """
    check_writable(picture, path)
    format, pixels = FORMATS[path.suffix.lower()], picture.pixels
    if pixels.dtype != np.uint8:
        pixels = np.round(pixels.astype(np.float64) * 65535).astype(np.uint16)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    profile = {"icc_profile": picture.profile} if picture.profile else {}
    file = io.BytesIO()
    try:
        image.save(file, format, **_OPTIONS.get(format, {}), **profile)
    except (OSError, ValueError) as error:
        raise PictureError(f"cannot be written as {format}: {error}") from error
    return file.getvalue()


def _mode(picture: Picture) -> str:
    if picture.pixels.dtype != np.uint8:
        return "I;16"
    return ("L", "LA", "RGB", "RGBA")[picture.pixels.shape[-1] - 1]


def _note(image: Image.Image) -> str:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's JPEG and its small copies
        return f"only the first of {frames} frames is read"
    # Pillow drops the lower bytes of these without a word.
    if ";16" in str(image.tile) and not image.mode.startswith("I"):
        return "16-bit colours are read as 8-bit"
    return ""


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except PictureError:
        raise
    except Image.UnidentifiedImageError:
        raise PictureError("not a picture, or of a kind that cannot be read") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PictureError(
            f"it has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller"
        ) from None
    except Exception as error:  # of any kind, from Pillow's decoders
        raise PictureError(f"damaged: {error or type(error).__name__}") from error
