import numpy as np
import pytest
from PIL import Image

from train.present.figure import RIGHT, WRONG, Row, picture_grid
from train.utils.errors import UserError

NAMES = ("disk", "star")


def rows():
    images = np.full((2, 8, 8, 3), 0.5, np.float32)
    return [Row("clean", images, np.array([0, 1])), Row("x", images, np.array([0, 0]))]


def pixels_of(path, colour):
    rgb = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(rgb - wanted).max(axis=-1) < 8).sum())


def test_right_is_green_and_wrong_is_red(tmp_path):
    labels = np.array([0, 1])
    picture_grid(rows(), labels, NAMES, tmp_path / "one.png", caption="words")
    picture_grid(rows()[:1], labels, NAMES, tmp_path / "right.png")
    assert pixels_of(tmp_path / "one.png", RIGHT) > 100
    assert pixels_of(tmp_path / "one.png", WRONG) > 100
    assert pixels_of(tmp_path / "right.png", WRONG) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "right.png"]


def test_one_line_where_it_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="cannot write"):
        picture_grid(rows(), np.array([0, 1]), NAMES, tmp_path / "file" / "x.png")
