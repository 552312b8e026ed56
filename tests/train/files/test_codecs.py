"""Tests of train/files/codecs.py: what Pillow is told to write is what comes back."""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from train.files import codecs
from train.files.codecs import Picture, PictureError


def random_pixels(channels: int, seed: int = 0) -> np.ndarray:
    shape = (5, 7, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def file_of(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".tiff", ".webp", ".bmp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lossless_formats_return_the_pixels(suffix, channels):
    if suffix == ".bmp" and channels in (2, 4):
        with pytest.raises(PictureError, match="BMP cannot hold its transparency"):
            codecs.encode(Picture(random_pixels(channels)), pathlib.Path("a.bmp"))
        return
    pixels = random_pixels(channels)
    data = codecs.encode(Picture(pixels), pathlib.Path("a" + suffix))
    decoded = codecs.decode(data).pixels
    if suffix == ".webp" and channels < 3:  # it knows no grey
        pixels = np.concatenate(
            [pixels[..., :1].repeat(3, axis=-1), pixels[..., 1:]], axis=-1
        )
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_grey_returns_every_value(suffix):
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    picture = codecs.decode(file_of(Image.fromarray(values), "PNG"))
    np.testing.assert_allclose(picture.pixels[..., 0], values / 65535, rtol=1e-7)
    assert picture.pixels.dtype == np.float32
    with Image.open(
        io.BytesIO(codecs.encode(picture, pathlib.Path("a" + suffix)))
    ) as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), values)


def test_16_bit_grey_in_the_other_byte_order():
    values = np.array([[0, 1, 256, 65535]], np.uint16)
    # A TIFF by hand: Pillow writes its own byte order only.
    entries = [(256, 4), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8)]
    entries += [(277, 1), (278, 1), (279, 8)]
    data = b"MM\0*" + struct.pack(">I", 16) + values.astype(">u2").tobytes()
    data += struct.pack(">H", len(entries))
    data += b"".join(struct.pack(">HHIHH", tag, 3, 1, v, 0) for tag, v in entries)
    decoded = codecs.decode(data + bytes(4)).pixels
    np.testing.assert_allclose(decoded[..., 0], values / 65535, rtol=1e-7)


def test_jpeg_and_gif_come_close():
    ramp = np.linspace(0, 255, 16 * 24).reshape(16, 24).astype(np.uint8)
    pixels = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1)
    for suffix, bound in ((".jpg", 8), (".gif", 32)):
        data = codecs.encode(Picture(pixels), pathlib.Path("a" + suffix))
        decoded = codecs.decode(data).pixels.astype(int)
        assert np.abs(decoded - pixels).max() <= bound


def test_other_kinds_of_pixels_are_converted():
    colours = Image.fromarray(random_pixels(3))
    palette = colours.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    decoded = codecs.decode(file_of(palette, "PNG")).pixels
    np.testing.assert_array_equal(decoded, expected)

    decoded = codecs.decode(file_of(palette, "PNG", transparency=3)).pixels
    np.testing.assert_array_equal(decoded[..., :3], expected)
    transparent = np.asarray(palette) == 3
    np.testing.assert_array_equal(decoded[..., 3], np.where(transparent, 0, 255))

    bits = np.random.default_rng(0).integers(0, 2, (5, 7)).astype(bool)
    decoded = codecs.decode(file_of(Image.fromarray(bits), "PNG")).pixels
    np.testing.assert_array_equal(decoded[..., 0], np.where(bits, 255, 0))

    cmyk = colours.convert("CMYK")
    decoded = codecs.decode(file_of(cmyk, "TIFF")).pixels
    np.testing.assert_array_equal(decoded, np.asarray(cmyk.convert("RGB")))


def test_the_picture_is_turned_upright():
    pixels = random_pixels(3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned left by 90 degrees, says the standard
    for format in ("PNG", "TIFF"):
        data = file_of(Image.fromarray(pixels), format, exif=exif)
        decoded = codecs.decode(data).pixels
        np.testing.assert_array_equal(decoded, np.rot90(pixels, -1))


def test_the_colour_profile_is_kept():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = file_of(Image.fromarray(random_pixels(3)), "PNG", icc_profile=profile)
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        encoded = codecs.encode(codecs.decode(data), pathlib.Path("a" + suffix))
        assert codecs.decode(encoded).profile == profile


def test_what_is_not_read_is_noted():
    frames = [Image.fromarray(random_pixels(1, seed)[..., 0]) for seed in (0, 1, 2)]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    picture = codecs.decode(data)
    assert picture.note == "only the first of 3 frames is read"
    np.testing.assert_array_equal(picture.pixels[..., 0], np.asarray(frames[0]))

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    values = chunk(b"IDAT", zlib.compress(b"\0" + bytes([200, 1, 100, 2, 50, 3])))
    data = b"\x89PNG\r\n\x1a\n" + head + values + chunk(b"IEND", b"")
    picture = codecs.decode(data)
    assert picture.note == "16-bit colours are read as 8-bit"
    np.testing.assert_array_equal(picture.pixels, [[[200, 100, 50]]])


def test_what_cannot_be_read_is_explained(monkeypatch):
    jpeg = file_of(Image.fromarray(random_pixels(3).repeat(9, axis=0)), "JPEG")
    floats = file_of(Image.fromarray(np.zeros((5, 7), np.float32)), "TIFF")
    integers = file_of(Image.fromarray(np.zeros((5, 7), np.int32)), "TIFF")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n%%EndComments\n"
    for data, reason in (
        (b"", "the file is empty"),
        (b"hello", "not a picture"),
        (postscript, "not a picture"),  # Pillow would start a program to read it
        (jpeg[: len(jpeg) // 2], "damaged"),
        (floats, "32 bits"),
        (integers, "32 bits"),
    ):
        with pytest.raises(PictureError, match=reason):
            codecs.decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34)  # a warning up to twice that
    with pytest.raises(PictureError, match="more than 34 pixels"):
        codecs.decode(file_of(Image.fromarray(random_pixels(3)), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(PictureError, match="more than 10 pixels"):
        codecs.decode(file_of(Image.fromarray(random_pixels(3)), "PNG"))


def test_formats_that_cannot_hold_a_picture_are_refused():
    deep = Picture(np.zeros((5, 7, 1), np.float32))
    for picture, name, reason in (
        (deep, "a.jpg", "JPEG cannot hold its 16 bits"),
        (deep, "a.gif", "GIF cannot hold its 16 bits"),
        (Picture(random_pixels(4)), "a.jpeg", "JPEG cannot hold its transparency"),
    ):
        with pytest.raises(PictureError, match=reason):
            codecs.check_writable(picture, pathlib.Path(name))
