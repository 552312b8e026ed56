"""Tests of train/training/cache.py: what is computed, what is kept, what is trusted."""

import dataclasses
import hashlib
import pathlib

import jax
import numpy as np
import pytest

import splic_jax
from splic_jax import SPLICConfig
from splic_jax.transforms import BilateralConfig
from train.data.loading import Dataset
from train.training import cache
from train.utils.errors import UserError

CONFIG = SPLICConfig(rank=2, max_steps=14)


def dataset_of(count: int = 10, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    return Dataset("shapes", images, np.zeros(count, np.int32), ("a",))


class Counted:
    """Stands in for `purify`: counts the images, and can be interrupted."""

    def __init__(self, stop_after: int | None = None):
        self.stop_after, self.calls = stop_after, 0

    def __call__(self, images, key, config, *, first_index, devices, check_finite):
        assert check_finite
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        # Any function of all it is given will do.
        indices = first_index + np.arange(len(images))
        salt = jax.random.randint(key, (), 0, 200)
        return (images + indices[:, None, None, None] + salt).astype(np.uint8)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "PIECE_IMAGES", 4)


def run(
    cache_dir: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int | None = None,
    dataset: Dataset | None = None,
    config: SPLICConfig = CONFIG,
    **options: int,
) -> tuple[np.ndarray | None, int]:
    """Returns the images, None when interrupted, and the number of pieces computed."""
    counted = Counted(stop_after)
    monkeypatch.setattr(splic_jax, "purify", counted)
    options = {"masks_per_image": 2, "seed": 3, **options}
    try:
        images = cache.purified_dataset(
            dataset or dataset_of(), config, cache_dir=cache_dir, **options
        )
    except KeyboardInterrupt:
        images = None
    return images, counted.calls


def test_equals_purify_mask_by_mask(tmp_path: pathlib.Path) -> None:
    dataset = dataset_of(5)
    result = cache.purified_dataset(
        dataset, CONFIG, masks_per_image=2, seed=3, cache_dir=tmp_path
    )
    assert result.shape == (2, 5, 6, 8, 3)
    assert result.dtype == np.uint8
    for mask in range(2):
        key = jax.random.fold_in(jax.random.key(3), mask)
        expected = splic_jax.purify(dataset.images, key, CONFIG)
        np.testing.assert_array_equal(result[mask], expected)
    assert (result[0] != result[1]).any()


def test_finished_set_is_read_not_computed(tmp_path, monkeypatch) -> None:
    first, pieces = run(tmp_path, monkeypatch)
    assert pieces == 6  # 4 + 4 + 2 images, twice
    again, pieces = run(tmp_path, monkeypatch)
    assert pieces == 0
    np.testing.assert_array_equal(first, again)
    (stored,) = tmp_path.glob("*.npy")
    np.testing.assert_array_equal(np.load(stored), first)
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("stop_after", [0, 1, 4, 5])
def test_interrupted_run_resumes(tmp_path, monkeypatch, stop_after: int) -> None:
    whole, _ = run(tmp_path / "whole", monkeypatch)
    images, pieces = run(tmp_path / "parts", monkeypatch, stop_after)
    assert images is None and pieces == stop_after
    assert not list((tmp_path / "parts").glob("*.npy"))
    images, pieces = run(tmp_path / "parts", monkeypatch)
    assert pieces == 6 - stop_after
    np.testing.assert_array_equal(images, whole)


@pytest.mark.parametrize("damage", ["empty", "shorter", "longer", "changed"])
def test_damaged_piece_is_computed_again(tmp_path, monkeypatch, damage: str) -> None:
    whole, _ = run(tmp_path / "whole", monkeypatch)
    run(tmp_path / "parts", monkeypatch, stop_after=3)
    piece = sorted(tmp_path.glob("parts/*.partial/*.piece"))[1]
    data = bytearray(piece.read_bytes())
    data[len(data) // 2] ^= 1
    piece.write_bytes(
        {
            "empty": b"",
            "shorter": piece.read_bytes()[:-1],
            "longer": piece.read_bytes() + b"0",
            "changed": bytes(data),
        }[damage]
    )
    # As a killed process leaves it:
    (piece.parent / "1-0-4.999.tmp").write_bytes(b"half")
    images, pieces = run(tmp_path / "parts", monkeypatch)
    assert pieces == 6 - 2
    np.testing.assert_array_equal(images, whole)


@pytest.mark.parametrize("suffix", ["npy", "json"])
@pytest.mark.parametrize("damage", ["empty", "shorter", "changed", "gone"])
def test_damaged_result_is_computed_again(
    tmp_path, monkeypatch, suffix: str, damage: str
) -> None:
    whole, _ = run(tmp_path, monkeypatch)
    (path,) = tmp_path.glob(f"*.{suffix}")
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "changed" and suffix == "json":
        stored = hashlib.sha256(whole).hexdigest().encode()
        path.write_bytes(data.replace(stored, stored[::-1]))
    else:
        changed = data[:-1] + bytes([data[-1] ^ 1])
        path.write_bytes(
            {"empty": b"", "shorter": data[:-1], "changed": changed}[damage]
        )
    images, pieces = run(tmp_path, monkeypatch)
    assert pieces == 6
    np.testing.assert_array_equal(images, whole)
    assert run(tmp_path, monkeypatch)[1] == 0


OTHER_VALUES = {
    "solver": "exact",
    "rank": 3,
    "tv_weight": 0.03,
    "delta_decay": 0.5,
    "step_size": 0.4,
    "inner_steps": 6,
    "tolerance": 1e-5,
    "max_steps": 21,
    "keep_probability": 0.6,
    "alternate": False,
    "step_scaling": "printed",
    "tv_form": "printed",
    "rank_cut": False,
    "tv_scales": 2,
    "pixel_scale": 2.0,
    "channels": "separate",
    "mask": "shared",
    "mask_design": "exact",
}


@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(SPLICConfig)]
)
def test_every_setting_counts(tmp_path, monkeypatch, field: str) -> None:
    run(tmp_path, monkeypatch)
    config = dataclasses.replace(CONFIG, **{field: OTHER_VALUES[field]})
    assert run(tmp_path, monkeypatch, config=config)[1] == 6
    assert run(tmp_path, monkeypatch)[1] == 0


@pytest.mark.parametrize(
    "change, pieces",
    [
        ({"seed": 4}, 6),
        ({"masks_per_image": 1}, 3),
        ({"dataset": dataset_of(seed=1)}, 6),
    ],
)
def test_every_input_counts(tmp_path, monkeypatch, change: dict, pieces: int) -> None:
    run(tmp_path, monkeypatch)
    assert run(tmp_path, monkeypatch, **change)[1] == pieces


def test_labels_and_names_do_not_count(tmp_path, monkeypatch) -> None:
    run(tmp_path, monkeypatch)
    other = Dataset("other", dataset_of().images, np.ones(10, np.int32), ("a", "b"))
    assert run(tmp_path, monkeypatch, dataset=other)[1] == 0


def test_changed_library_counts(tmp_path, monkeypatch) -> None:
    run(tmp_path, monkeypatch)
    monkeypatch.setattr(splic_jax, "__version__", "999")
    assert run(tmp_path, monkeypatch)[1] == 6


def test_mistakes_are_one_line(tmp_path, monkeypatch) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    with pytest.raises(UserError, match="file.*--cache_dir") as error:
        run(occupied, monkeypatch)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    with pytest.raises(UserError, match="rank=7") as error:
        cache.purified_dataset(dataset_of(), SPLICConfig(rank=7), cache_dir=tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.npy"))


def test_an_image_that_is_not_finite_is_named_and_not_kept(tmp_path):
    config = BilateralConfig(colour_std=1e-30)  # its square is 0 in float32
    with pytest.raises(UserError, match="^image 0 is not finite once transformed"):
        cache.purified_dataset(dataset_of(), config, cache_dir=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
