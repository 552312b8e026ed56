import json

import numpy as np
import pytest
from PIL import Image
from scipy import special

from splic_jax import SPLICConfig
from train import models
from train.data import loading
from train.demonstrations import samples
from train.training.checkpoints import LoadedModel
from train.training.settings import TrainSettings
from train.utils.errors import UserError
from train.utils.progress import Progress

GRID = {"keep_probability": (0.5, 0.7), "rank": (2,), "tv_weight": (0.02,)}


def test_combinations_of_a_grid_change_the_last_field_fastest():
    found = samples.combinations({"a": (1, 2), "b": (3, 4)})
    expected = [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert [(x["a"], x["b"]) for x in found] == expected


def test_answers_are_the_likeliest_classes():
    logits = np.array([[0.1, 2.0, -1.0, 1.0], [3.0, 3.0, 0.0, 9.0]], np.float32)
    names = ("disk", "ring", "star", "leaf")
    found = samples.answers(logits, names)
    assert [x["class"] for x in found[0]] == ["ring", "leaf", "disk"]
    assert [x["class"] for x in found[1]] == ["leaf", "disk", "ring"]
    expected = special.softmax(logits.astype(np.float64), axis=1)[0, [1, 3, 0]]
    np.testing.assert_allclose(
        [x["probability"] for x in found[0]], expected, rtol=1e-5
    )


def test_psnr_is_against_the_clean_image_and_none_where_equal():
    rng = np.random.default_rng(0)
    clean = rng.uniform(size=(2, 4, 4, 3)).astype(np.float32)
    seen = clean.copy()
    seen[1] = np.clip(seen[1] + 0.1, 0, 1)
    error = np.mean((clean[1].astype(np.float64) - seen[1]) ** 2)
    found = samples.psnr_of(clean, seen)
    assert found[0] is None
    assert found[1] == pytest.approx(-10 * np.log10(error), abs=0.006)


def test_tiles_stand_row_by_row_and_come_back():
    images = np.random.default_rng(0).uniform(size=(5, 2, 3, 3))
    tiles = samples.tiles_of(images)
    np.testing.assert_array_equal(tiles, np.round(255 * images))
    sheet = samples.sheet_of(tiles, 3)
    assert sheet.shape == (4, 9, 3)
    np.testing.assert_array_equal(sheet[2:4, 3:6], tiles[4])
    assert not sheet[2:4, 6:].any()
    np.testing.assert_array_equal(samples.tiles_from(sheet, 5, (2, 3)), tiles)


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (4, [0, 1, 2])])
def test_tiles_have_colours(channels, shown):
    images = np.random.default_rng(0).uniform(size=(1, 2, 2, channels))
    expected = np.round(255 * images)[..., shown]
    np.testing.assert_array_equal(samples.tiles_of(images), expected)


def networks():
    loaded = {}
    config = SPLICConfig(max_steps=7)
    for name, defense in (("bare", None), ("splic", config)):
        model = models.create("small", 10, seed=0)
        settings = TrainSettings(defense=defense)
        loaded[name] = LoadedModel(
            *models.split(model), settings, loading.CLASS_NAMES["shapes"], {"name": "x"}
        )
    return loaded


@pytest.mark.slow
def test_writes_what_the_page_needs_and_goes_on_where_it_stopped(tmp_path):
    dataset = loading.load("shapes", "test", num_examples=2)
    loaded = networks()

    def make():
        samples.make_samples(
            tmp_path,
            loaded,
            dataset,
            explored=1,
            seed=0,
            grid=GRID,
            progress=Progress(quiet=True),
        )
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    first = make()
    assert sorted(first) == ["explorer.png", "samples.json", "samples.png"]
    record = json.loads(first["samples.json"])
    sheet = np.asarray(Image.open(tmp_path / "samples.png"))
    assert sheet.shape == (3 * 32, 2 * 32, 3)
    np.testing.assert_array_equal(sheet[:32, 32:], dataset.images[1])
    # The ball of the attack, and half a step of rounding to bytes.
    apart = sheet[32:64].astype(int) - sheet[:32]
    assert 0 < np.abs(apart).max() <= 8
    assert [image["label"] for image in record["images"]] == [
        dataset.class_names[label] for label in dataset.labels
    ]
    for view in ("clean", "attacked", "purified"):
        found = record["images"][0]["views"][view]
        assert (found["psnr_db"] is None) == (view == "clean")
        for top in found["top"].values():
            shares = [one["probability"] for one in top]
            assert len(shares) == 3 and shares == sorted(shares, reverse=True)
    explorer = np.asarray(Image.open(tmp_path / "explorer.png"))
    assert explorer.shape == (2 * 32, 32, 3)
    kept = [cell["keep_probability"] for cell in record["explorer"]]
    assert kept == list(GRID["keep_probability"])
    for place, cell in enumerate(record["explorer"]):
        tile = explorer[32 * place :][:32].astype(np.float64)
        error = np.mean((tile - dataset.images[0]) ** 2) / 255**2
        psnr = cell["images"][0]["psnr_db"]
        assert psnr == pytest.approx(-10 * np.log10(error), abs=0.05)

    # Finished: nothing is measured or written again.
    assert make() == first
    # Interrupted after the first setting: the second is made, and the same.
    record["explorer"] = record["explorer"][:1]
    (tmp_path / "samples.json").write_text(json.dumps(record))
    again = json.loads(make()["samples.json"])
    assert again["explorer"] == json.loads(first["samples.json"])["explorer"]
    assert (tmp_path / "explorer.png").read_bytes() == first["explorer.png"]
    # Other weights: not over what is there.
    loaded["bare"] = with_other_weights(loaded["bare"])
    with pytest.raises(UserError, match="another networks.bare.weights_sha256; give"):
        make()
    assert (tmp_path / "explorer.png").read_bytes() == first["explorer.png"]


def with_other_weights(network):
    model = models.create("small", 10, seed=1)
    return network._replace(variables=models.split(model)[1])
