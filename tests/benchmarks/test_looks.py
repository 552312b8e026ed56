"""The contact sheet: each pixel where it belongs, and a record of what is shown."""

import json

import binaries
import given_networks
import numpy as np
import pytest
from PIL import Image

from benchmarks import _sheet, looks


def test_a_sheet_shows_every_pixel(tmp_path):
    rng = np.random.default_rng(0)
    left, right = (rng.random((4, width, 3)).astype(np.float32) for width in (5, 3))
    words = [_sheet.Words("above")]
    rows = [
        [_sheet.Tile(left, words), _sheet.Tile(right, enlarged=2)],
        [None, _sheet.Tile(left, below=words)],
    ]
    _sheet.draw(tmp_path / "s.png", rows)
    with Image.open(tmp_path / "s.png") as picture:
        sheet = np.asarray(picture)
    gap, line = _sheet.GAP, _sheet.LINE
    pixels = lambda x: np.round(255 * x).astype(np.uint8)
    found = sheet[gap + line :, gap:][:4, :5]
    np.testing.assert_array_equal(found, pixels(left))
    found = sheet[gap:, 2 * gap + 5 :][:8, :6]
    np.testing.assert_array_equal(found, pixels(right).repeat(2, 0).repeat(2, 1))
    top = 2 * gap + line + 4
    found = sheet[top:, 2 * gap + 5 :][:4, :5]
    np.testing.assert_array_equal(found, pixels(left))
    assert (sheet[top : top + 4, : 2 * gap + 5] == 255).all()  # the empty tile
    assert (sheet[top + 4 :] < 255).any()  # words


def test_what_is_shown_lies_in_the_photograph():
    pixels = looks.photograph("china", 200)
    assert pixels.shape == (133, 200, 3) and 0 <= pixels.min() < pixels.max() <= 1
    for middle in ((0, 0), (0.5, 0.5), (1, 1)):
        rows, columns = looks.part_of(pixels, middle)
        assert pixels[rows, columns].shape[:2] == looks.CROP
    whole = looks.part_of(pixels[:20, :30], (0.5, 0.5))
    assert whole == (slice(0, 20), slice(0, 30))


@pytest.mark.slow
def test_looks(tmp_path, monkeypatch):
    chosen = dict(list(looks.SETTINGS.items())[:1])
    monkeypatch.setattr(looks, "SETTINGS", chosen)
    monkeypatch.setattr(looks, "VIEWS", looks.VIEWS[:3])
    given_networks.write_cifar(tmp_path, "test_batch", 20)
    flags = ["--dataset=cifar10", "--data_dir=.", "--images_note=grey", "--skip=3"]
    flags += [f"--network={given_networks.__file__}:logits", "--width=32", "--out=l"]
    done = binaries.run("benchmarks.looks", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "l").read_text())
    noisy, purified = record["rows"]
    assert noisy["view"] == "not purified" and noisy["settings"] is None
    assert purified["settings"]["tv_weight"] == 0.02
    assert noisy["images"]["correct"] == 6  # levels are 25/255 apart
    for row in (noisy, purified):
        assert 10 < row["china"]["psnr_db"] < 40 and 0 < row["flower"]["ssim"] < 1
    with Image.open(tmp_path / "l.png") as picture:
        assert picture.width == 3 * looks.ENLARGED * 32 + 4 * _sheet.GAP
