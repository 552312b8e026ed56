"""Tests of `python -m train.purify`: pictures, arrays, a data set, and what goes wrong.

All pictures are tiny, of few shapes (each is compiled for once in the whole file), and
completed for one round: what SPLIC does to them is tested elsewhere.
"""

import hashlib
import io
import json
import pathlib
import re
import zipfile
from collections.abc import Iterator

import binaries
import given_networks
import jax
import numpy as np
import pytest
import scipy.ndimage
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from splic_jax import SPLICConfig
from splic_jax import purify as purify_images
from splic_jax.layout.batches import NotFiniteError
from train import purify
from train.data import loading
from train.files import pictures, pieces
from train.files.pieces import Purifier
from train.utils.errors import UserError

CONFIG = SPLICConfig(max_steps=1)
SHAPE = (12, 16, 3)


@pytest.fixture(scope="module", autouse=True)
def defined_flags() -> Iterator[None]:
    with binaries.only_flags_of(purify):
        yield


def run(*arguments: object) -> int:
    with flagsaver.flagsaver():
        flags.FLAGS(["purify", "--splic_max_steps=1", *map(str, arguments)])
        return purify.main(["purify"])


def random_pixels(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: pathlib.Path, pixels: np.ndarray, **options: object) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    Image.fromarray(pixels).save(path, **options)
    return path


def read(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as image:
        pixels = np.array(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def expected(pixels: np.ndarray, name: str, seed: int = 0) -> np.ndarray:
    """The picture with the mask that its name stands for, purified by itself."""
    index = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) // 2
    key = jax.random.key(seed)
    return np.asarray(purify_images(pixels[None], key, CONFIG, first_index=index)[0])


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lines_of(path: pathlib.Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["path"]: line for line in lines if "path" in line}


def psnr_of(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 10 * np.log10(255**2 / error)


def ssim_of(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. (2004): Gaussian window of 11 x 11 pixels, without a border."""

    def blur(x: np.ndarray) -> np.ndarray:
        x = scipy.ndimage.gaussian_filter(x, 1.5, axes=(0, 1), radius=5)
        return x[5:-5, 5:-5]

    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = blur(a), blur(b)
    covariance = blur(a * b) - mean_a * mean_b
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(
        np.mean(
            (2 * mean_a * mean_b + c1)
            * (2 * covariance + c2)
            / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
        )
    )


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indices purified so far, in a run or since the list was cleared."""
    indices, call = [], Purifier.__call__

    def counting(self, images, piece_indices):
        indices.extend(piece_indices.tolist())
        return call(self, images, piece_indices)

    monkeypatch.setattr(Purifier, "__call__", counting)
    return indices


def interrupt_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Has Ctrl-C pressed instead of purifying piece number `count`, from 0."""
    call, calls = Purifier.__call__, []

    def interrupted(self, images, indices):
        calls.append(indices)
        if len(calls) > count:
            raise KeyboardInterrupt
        return call(self, images, indices)

    monkeypatch.setattr(Purifier, "__call__", interrupted)


# Pictures.


def test_folder_of_mixed_pictures(tmp_path, capsys, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    inputs = {
        "rgb.png": random_pixels(),
        "grey.png": random_pixels((12, 16, 1)),
        "sub/deep er/alpha.png": random_pixels((12, 16, 4)),
        "sub/rgb.png": random_pixels(),  # the same pixels, another name
    }
    for name, pixels in inputs.items():
        save(folder / name, pixels)
    jpeg = save(folder / "photo.jpg", random_pixels(seed=1)).read_bytes()
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("left alone")
    monkeypatch.setattr(pictures, "MANY_SHAPES", 2)
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))

    assert run(f"--input={folder}", f"--output={out}") == 1

    shown = capsys.readouterr().out
    failures = [line for line in shown.splitlines() if line.startswith("skipped ")]
    for name, line in zip(("cut.jpg", "empty.png", "text.png"), failures, strict=True):
        assert line.startswith(f"skipped {folder / name}: ")
    assert f"{folder}: files left out, not named as pictures: 1" in shown
    assert "3 different sizes" in shown
    assert len(cleared) == 3
    assert sorted(contents(out)) == sorted([*inputs, "photo.jpg", "purify.jsonl"])

    record = lines_of(out / "purify.jsonl")
    assert sorted(record) == sorted([*inputs, "photo.jpg"])
    for name, pixels in inputs.items():
        purified = read(out / name)
        np.testing.assert_array_equal(purified, expected(pixels, name))
        colours = min(pixels.shape[-1], 3)
        before, after = pixels[..., :colours], purified[..., :colours]
        assert record[name]["shape"] == list(pixels.shape)
        assert record[name]["psnr"] == pytest.approx(psnr_of(before, after), abs=1e-3)
        assert record[name]["ssim"] == pytest.approx(ssim_of(before, after), abs=1e-3)
        assert not np.array_equal(before, after)
    alpha = "sub/deep er/alpha.png"
    np.testing.assert_array_equal(read(out / alpha)[..., 3], inputs[alpha][..., 3])
    assert not np.array_equal(read(out / "rgb.png"), read(out / "sub/rgb.png"))

    mean = np.mean([line["psnr"] for line in record.values()])
    assert f"{mean:.2f} dB" in shown


def test_a_picture_alone_equals_itself_in_the_folder(tmp_path):
    folder = tmp_path / "in"
    for seed in range(3):
        save(folder / f"{seed}.png", random_pixels(seed=seed))
    assert run(f"--input={folder}", f"--output={tmp_path / 'all'}") == 0
    target = tmp_path / "alone.png"
    assert run(f"--input={folder / '1.png'}", f"--output={target}") == 0
    assert target.read_bytes() == (tmp_path / "all" / "1.png").read_bytes()
    several = [f"--input={folder / name}" for name in ("2.png", "1.png")]
    assert run(*several, f"--output={tmp_path / 'two'}", "--batch=3") == 0
    for name in ("1.png", "2.png"):
        assert contents(tmp_path / "two")[name] == contents(tmp_path / "all")[name]


def test_16_bit_grey_and_small_pictures(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (12, 16, 1), dtype=np.uint16)
    save(tmp_path / "in" / "deep.png", values)
    save(tmp_path / "in" / "tiny.png", random_pixels((5, 16, 1)))
    assert run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}") == 0
    wanted = expected((values / 65535).astype(np.float32), "deep.png")
    purified = read(tmp_path / "out" / "deep.png")
    assert purified.dtype == np.uint16
    np.testing.assert_array_equal(purified, np.round(wanted.astype(float) * 65535))
    # The window of SSIM does not fit in.
    assert lines_of(tmp_path / "out" / "purify.jsonl")["tiny.png"]["ssim"] is None


def test_second_run_does_what_is_missing(tmp_path, computed, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    for seed in range(3):
        save(folder / f"{seed}.png", random_pixels(seed=seed))
    command = (f"--input={folder}", f"--output={out}")
    assert run(*command) == 0
    assert len(computed) == 3
    first = contents(out)

    computed.clear()
    capsys.readouterr()
    assert run(*command) == 0
    assert computed == []
    assert contents(out) == first
    assert "3 of 3 pictures are done already" in capsys.readouterr().out

    (out / "1.png").unlink()
    save(folder / "new.png", random_pixels(seed=9))
    with open(out / "purify.jsonl", "a") as file:
        file.write('{"path": "cut o')  # as a power cut may leave it
    assert run(*command) == 0
    assert len(computed) == 2
    again = contents(out)
    new, name = again.pop("new.png"), "purify.jsonl"
    assert {**again, name: first[name]} == first
    np.testing.assert_array_equal(
        read(out / "new.png"), expected(random_pixels(seed=9), "new.png")
    )
    assert new.startswith(b"\x89PNG")

    computed.clear()
    assert run(*command) == 0
    assert computed == []


def test_interrupted_folder_goes_on(tmp_path, monkeypatch, computed):
    folder, out = tmp_path / "in", tmp_path / "out"
    for seed in range(3):
        save(folder / f"{seed}.png", random_pixels(seed=seed))
    assert run(f"--input={folder}", f"--output={tmp_path / 'whole'}") == 0
    with monkeypatch.context() as context:
        interrupt_after(context, 1)
        with pytest.raises(KeyboardInterrupt):
            run(f"--input={folder}", f"--output={out}")
    assert sorted(contents(out)) == ["0.png", "purify.jsonl"]
    computed.clear()
    assert run(f"--input={folder}", f"--output={out}") == 0
    assert len(computed) == 2
    assert contents(out) == contents(tmp_path / "whole")


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    picture, out = save(tmp_path / "a.png", random_pixels()), tmp_path / "out"

    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as context:
        context.setattr("os.replace", full)
        with pytest.raises(UserError, match="a.png: No space left on device"):
            run(f"--input={picture}", f"--output={out}")
    assert sorted(contents(out)) == ["purify.jsonl"]
    assert run(f"--input={picture}", f"--output={out}") == 0
    np.testing.assert_array_equal(
        read(out / "a.png"), expected(random_pixels(), "a.png")
    )


def test_nothing_is_overwritten_unasked(tmp_path, computed):
    folder, out = tmp_path / "in", tmp_path / "out"
    save(folder / "a.png", random_pixels())
    save(folder / "b.png", random_pixels(seed=1))
    command = (f"--input={folder}", f"--output={out}")
    mine = save(out / "b.png", random_pixels(seed=2))
    before = contents(out)
    with pytest.raises(UserError, match="b.png would be overwritten.*--overwrite"):
        run(*command)
    assert contents(out) == before
    assert computed == []
    mine.unlink()

    assert run(*command) == 0
    first = contents(out)
    with pytest.raises(UserError, match="a.png and 1 more would be overwritten"):
        run(*command, "--seed=1")
    assert contents(out) == first
    assert run(*command, "--seed=1", "--overwrite") == 0
    np.testing.assert_array_equal(
        read(out / "a.png"), expected(random_pixels(), "a.png", seed=1)
    )

    save(folder / "a.png", random_pixels(seed=3))
    with pytest.raises(UserError, match="a.png would be overwritten"):
        run(*command, "--seed=1")
    computed.clear()
    assert run(*command, "--seed=1", "--overwrite") == 0
    assert len(computed) == 1


def test_a_setting_that_fits_no_picture_names_each(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, random_pixels())
    command = (f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
    assert run(*command, "--rank=13") == 1
    shown = capsys.readouterr().out
    for name in ("a.png", "b.png"):
        assert f"{name}: cannot be purified: rank=13 exceeds" in shown
    assert not (tmp_path / "out").exists()


def spoil(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    """Has the image of this index, where it is purified, come out not finite."""

    def spoiled(images, key, config, *, indices, check_finite, **options):
        assert check_finite
        bad = np.flatnonzero(indices == index).tolist()
        if bad:
            raise NotFiniteError(bad)
        return purify_images(images, key, config, indices=indices, **options)

    monkeypatch.setattr(pieces, "purify", spoiled)


def test_a_picture_that_is_not_finite_is_named_and_not_written(
    tmp_path, capsys, monkeypatch
):
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / "in" / name, random_pixels())
    spoil(monkeypatch, int(hashlib.sha256(b"b.png").hexdigest()[:8], 16) // 2)
    command = (f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
    assert run(*command, "--batch=3") == 1
    shown = capsys.readouterr().out
    assert "b.png: it is not finite once purified; choose milder settings" in shown
    assert set(contents(tmp_path / "out")) == {"a.png", "c.png", "purify.jsonl"}
    np.testing.assert_array_equal(
        read(tmp_path / "out" / "c.png"), expected(random_pixels(), "c.png")
    )


def test_masks_of_another_kind_of_key_are_not_mixed_in(tmp_path, capsys):
    save(tmp_path / "in" / "a.png", random_pixels())
    out = tmp_path / "out"
    command = (f"--input={tmp_path / 'in'}", f"--output={out}")
    assert run(*command) == 0
    text = (out / "purify.jsonl").read_text()
    settings = json.loads(text.splitlines()[0])
    assert settings["values"].pop("masks")["key_type"] == "threefry2x32"
    # A record of before goes on.
    old = json.dumps(settings["values"], sort_keys=True).encode()
    assert settings["settings"] == hashlib.sha256(old).hexdigest()[:16]
    before = contents(out)
    save(tmp_path / "more" / "b.png", random_pixels(seed=1))
    for folder in ("in", "more"):
        with (
            jax.default_prng_impl("rbg"),
            pytest.raises(UserError, match="masks from threefry2x32 keys, .* rbg keys"),
        ):
            run(f"--input={tmp_path / folder}", f"--output={out}")
    assert contents(out) == before


# Arrays.


def expected_batch(images: np.ndarray) -> np.ndarray:
    return np.asarray(purify_images(images, jax.random.key(0), CONFIG))


def test_npz_comes_back_with_everything_in_it(tmp_path, capsys):
    arrays = {
        "images": random_pixels((3, *SHAPE)),
        "file": random_pixels((2, 12, 16, 4)).astype(np.float64) / 255,
        "labels": np.array([3, 1, 2]),
        "names": np.array(["a", "bc", "d"]),
        "weights": np.zeros((3, 3, 8, 16), np.float32),
    }
    path, target = tmp_path / "in.npz", tmp_path / "out.npz"
    with open(path, "wb") as file:
        np.savez(file, **{name: arrays[name] for name in arrays if name != "file"})
    with zipfile.ZipFile(path, "a") as archive, archive.open("file.npy", "w") as member:
        np.save(member, arrays["file"])
    assert run(f"--input={path}", f"--output={target}") == 0
    assert "purifying images, file; labels, names, weights copied" in (
        capsys.readouterr().out
    )
    with np.load(target) as result:
        assert sorted(result) == sorted(arrays)
        for name in ("labels", "names", "weights"):
            np.testing.assert_array_equal(result[name], arrays[name])
        np.testing.assert_array_equal(
            result["images"], expected_batch(arrays["images"])
        )
        assert result["images"].dtype == np.uint8
        floats = result["file"]
    assert floats.dtype == np.float64
    np.testing.assert_array_equal(floats[..., 3], arrays["file"][..., 3])
    wanted = expected_batch(arrays["file"].astype(np.float32))
    np.testing.assert_array_equal(floats[..., :3], wanted[..., :3])
    assert sorted(contents(tmp_path)) == ["in.npz", "out.npz", "out.npz.jsonl"]

    head, *lines = map(
        json.loads, (tmp_path / "out.npz.jsonl").read_text().splitlines()
    )
    assert head["config"]["max_steps"] == 1
    assert [(line["array"], line["index"]) for line in lines] == [
        *(("images", i) for i in range(3)),
        *(("file", i) for i in range(2)),
    ]
    psnr = psnr_of(arrays["images"][2], expected_batch(arrays["images"])[2])
    assert lines[2]["psnr"] == pytest.approx(psnr, abs=1e-3)


def test_npy_of_one_image_or_many(tmp_path):
    images = random_pixels((3, *SHAPE))
    np.save(tmp_path / "many.npy", images)
    np.save(tmp_path / "one.npy", images[0])
    np.save(tmp_path / "none.npy", images[:0])
    np.save(tmp_path / "other.npy", (images[:2] / 255).astype(">f4"))
    out = tmp_path / "out"
    for name in ("many", "one", "none", "other"):
        assert run(f"--input={tmp_path / name}.npy", f"--output={out}") == 0
    wanted = expected_batch(images)
    np.testing.assert_array_equal(np.load(out / "many.npy"), wanted)
    np.testing.assert_array_equal(np.load(out / "one.npy"), wanted[0])
    assert np.load(out / "none.npy").shape == (0, *SHAPE)
    other = np.load(out / "other.npy")
    assert other.dtype == np.dtype(">f4")
    np.testing.assert_array_equal(
        other, expected_batch((images[:2] / 255).astype(np.float32))
    )


def test_interrupted_array_goes_on(tmp_path, monkeypatch, computed, capsys):
    np.save(tmp_path / "in.npy", random_pixels((4, *SHAPE)))
    command = (f"--input={tmp_path / 'in.npy'}", "--batch=1")
    whole, out = tmp_path / "whole.npy", tmp_path / "out"
    assert run(*command, f"--output={whole}") == 0
    with monkeypatch.context() as context:
        interrupt_after(context, 3)
        with pytest.raises(KeyboardInterrupt):
            run(*command, f"--output={out}")
    assert not (out / "in.npy").exists()
    # An image that the disk did not keep is done again.
    partial = out / "in.npy.partial" / "0.npy"
    kept = np.load(partial, mmap_mode="r+")
    kept[1] = 0
    kept.flush()
    computed.clear()
    assert run(*command, f"--output={out}") == 0
    assert computed == [1, 3]
    assert sorted(contents(out)) == ["in.npy", "in.npy.jsonl"]
    assert (out / "in.npy").read_bytes() == whole.read_bytes()
    record = (out / "in.npy.jsonl").read_bytes()
    assert record == whole.with_name("whole.npy.jsonl").read_bytes()

    computed.clear()
    capsys.readouterr()
    assert run(*command, f"--output={out}") == 0
    assert computed == []
    assert "is done already" in capsys.readouterr().out
    with pytest.raises(UserError, match="would be overwritten"):
        run(*command, f"--output={out}", "--seed=1")
    assert (out / "in.npy").read_bytes() == whole.read_bytes()
    assert run(*command, f"--output={out}", "--seed=1", "--overwrite") == 0
    assert (out / "in.npy").read_bytes() != whole.read_bytes()


def test_results_of_other_settings_are_not_mixed_in(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "in.npy", random_pixels((2, *SHAPE)))
    command = (f"--input={tmp_path / 'in.npy'}", f"--output={tmp_path / 'out.npy'}")
    with monkeypatch.context() as context:
        interrupt_after(context, 1)
        with pytest.raises(KeyboardInterrupt):
            run(*command, "--seed=1")
    assert run(*command) == 0
    assert "had other settings: starting over" in capsys.readouterr().out
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npy"), expected_batch(random_pixels((2, *SHAPE)))
    )


def test_an_image_that_is_not_finite_is_named_and_nothing_written(
    tmp_path, monkeypatch
):
    np.save(tmp_path / "in.npy", random_pixels((4, *SHAPE)))
    spoil(monkeypatch, 3)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"in.npy: image\[3\] is not finite"):
        run(f"--input={tmp_path / 'in.npy'}", f"--output={tmp_path / 'o.npy'}")
    assert contents(tmp_path) == before


def test_an_array_that_was_begun_with_other_keys_is_left_as_it_is(tmp_path):
    np.save(tmp_path / "in.npy", random_pixels((2, *SHAPE)))
    command = (f"--input={tmp_path / 'in.npy'}", f"--output={tmp_path / 'out.npy'}")
    assert run(*command) == 0
    head = (tmp_path / "out.npy.jsonl").read_text().splitlines(keepends=True)[0]
    for name in ("out.npy", "out.npy.jsonl"):
        (tmp_path / name).unlink()
    partial = tmp_path / "out.npy.partial"
    partial.mkdir()
    (partial / "record.jsonl").write_text(head)
    before = contents(tmp_path)
    with (
        jax.default_prng_impl("rbg"),
        pytest.raises(UserError, match="masks from threefry2x32 keys, .* rbg keys"),
    ):
        run(*command)
    assert contents(tmp_path) == before
    assert run(*command) == 0


def test_an_array_of_an_older_record_is_done_already(tmp_path, capsys):
    np.save(tmp_path / "in.npy", random_pixels((2, *SHAPE)))
    command = (f"--input={tmp_path / 'in.npy'}", f"--output={tmp_path / 'out.npy'}")
    assert run(*command) == 0
    record = tmp_path / "out.npy.jsonl"
    head, *rest = record.read_text().splitlines(keepends=True)
    old = {k: v for k, v in json.loads(head).items() if k != "masks"}
    record.write_text(json.dumps(old) + "\n" + "".join(rest))
    capsys.readouterr()
    assert run(*command) == 0
    assert "is done already" in capsys.readouterr().out
    with (
        jax.default_prng_impl("rbg"),
        pytest.raises(UserError, match="would be overwritten"),
    ):
        run(*command)


def test_dataset_comes_out_as_npz(tmp_path, monkeypatch):
    images = random_pixels((4, *SHAPE))
    labels = np.array([3, 1, 4, 1], np.int32)

    def load(name, split, *, data_dir, num_examples, resize):
        assert (name, split, data_dir, resize) == (
            "cifar10",
            "train",
            "somewhere",
            None,
        )
        kept = slice(num_examples)
        return loading.Dataset(name, images[kept], labels[kept], tuple("abcdefghij"))

    monkeypatch.setattr(loading, "load", load)
    command = ("--dataset=cifar10", "--data_dir=somewhere", "--split=train")
    assert run(*command, "--num_train=3", f"--output={tmp_path}") == 0
    with np.load(tmp_path / "cifar10-train.npz") as result:
        assert sorted(result) == ["images", "labels"]
        np.testing.assert_array_equal(result["images"], expected_batch(images[:3]))
        np.testing.assert_array_equal(result["labels"], labels[:3])


# What goes wrong.


def make_inputs(folder: pathlib.Path) -> None:
    save(folder / "pictures" / "a.png", random_pixels())
    save(folder / "pictures" / "sub" / "a.png", random_pixels())
    (folder / "nothing").mkdir()
    images = random_pixels((2, *SHAPE)).astype(np.float32)
    np.save(folder / "high.npy", images)
    nan = images / 255
    nan[1, 2, 3, 0] = np.nan
    np.save(folder / "nan.npy", nan)
    np.save(folder / "good.npy", images / 255)
    np.save(folder / "flat.npy", images[0, ..., 0] / 255)
    np.save(folder / "pickled.npy", np.array([{}]), allow_pickle=True)
    np.savez(folder / "labels.npz", labels=np.arange(3))
    np.savez(folder / "high.npz", images=images)
    with zipfile.ZipFile(folder / "twice.npz", "w") as archive:
        for name in ("images.npy", "images"):
            archive.writestr(name, (folder / "good.npy").read_bytes())
    (folder / "text.npy").write_text("hello")
    (folder / "text.npz").write_text("hello")
    (folder / "notes.txt").write_text("hello")
    (folder / "swapped.npy").write_bytes((folder / "high.npz").read_bytes())
    (folder / "swapped.npz").write_bytes((folder / "good.npy").read_bytes())
    cut = (folder / "good.npy").read_bytes()
    (folder / "cut.npy").write_bytes(cut[:-100])


@pytest.mark.parametrize(
    "command, message",
    [
        ("--output=out", "give --input or --dataset, one of them"),
        ("--input=pictures", "give --output"),
        ("--input=pictures --dataset=shapes --output=out", "one of them"),
        ("--input=pictures --split=train --output=out", "--split needs --dataset"),
        ("--input=missing --output=out", "--input=missing: no such file or folder"),
        ("--input=nothing --output=out", "no pictures in --input=nothing"),
        ("--input=notes.txt --output=out", "must be a folder or end in .bmp"),
        ("--input=pictures --output=pictures", "is in --input=pictures"),
        ("--input=pictures --output=pictures/out", "is in --input=pictures"),
        ("--input=pictures/a.png --output=pictures", "would overwrite the input"),
        ("--input=pictures/a.png --output=pictures/a.png", "overwrite the input"),
        ("--input=pictures/sub --output=pictures", "a.png would be overwritten"),
        ("--input=pictures/a.png --input=pictures/sub --output=out", "both be"),
        ("--input=pictures --output=out.png", "several pictures need a folder"),
        ("--input=pictures/a.png --output=out.npz", "not an array"),
        ("--input=pictures/a.png --output=notes.txt", "cannot write notes.txt"),
        ("--input=pictures --input=good.npy --output=out", "the only input"),
        ("--input=good.npy --output=good.npy", "would overwrite the input good.npy"),
        ("--input=good.npy --output=out.npz", "must end in .npy"),
        ("--input=good.npy --output=out.npy --rank=13", "rank=13 exceeds"),
        ("--input=high.npy --output=out.npy", "must be in [0, 1]; rescale them"),
        ("--input=high.npz --output=out.npz", "high.npz: images[0, 0, 0, 0] is"),
        ("--input=nan.npy --output=out.npy", "nan.npy: image[1, 2, 3, 0] is nan"),
        ("--input=flat.npy --output=out.npy", "shape (12, 16) and type float32"),
        ("--input=labels.npz --output=out.npz", "it has labels"),
        ("--input=pickled.npy --output=out.npy", "cannot read pickled.npy"),
        ("--input=text.npy --output=out.npy", "cannot read text.npy"),
        ("--input=text.npz --output=out.npz", "cannot read text.npz"),
        ("--input=swapped.npy --output=out.npy", "not that of a .npy file"),
        ("--input=swapped.npz --output=out.npz", "not that of a .npz file"),
        ("--input=cut.npy --output=out.npy", "cannot read cut.npy"),
        ("--input=twice.npz --output=out.npz", "it has 2 arrays called images"),
        ("--input=good.npy --output=out.npy --keep_probability=0", "--keep_prob"),
        (
            "--input=good.npy --output=out.npy --tv_weight=1",
            "most 2 / (8 step_size)",
        ),
        ("--input=pictures --output=out --tv_weight=10", "--tv_weight must be at most"),
        ("--input=pictures --output=out --splic_step_size=1e300", "--splic_step_size"),
        ("--input=pictures --output=out --splic_pixel_scale=1e38", "[1e-3, 1e6]"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    tmp_path, monkeypatch, command, message
):
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        run(*command.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def test_a_link_to_the_input_is_not_written_through(tmp_path):
    picture = save(tmp_path / "in" / "a.png", random_pixels())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(picture)
    with pytest.raises(UserError, match="would overwrite the input"):
        run(f"--input={picture}", f"--output={tmp_path / 'out'}", "--overwrite")


def test_names_that_are_no_text(tmp_path, capsys):
    folder = tmp_path / "in"
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    file = io.BytesIO()
    Image.fromarray(random_pixels()).save(file, "PNG")
    folder.mkdir()
    try:
        (folder / name).write_bytes(file.getvalue())
    except OSError as error:
        pytest.skip(f"this file system knows no such names: {error}")
    (folder / f"{name}.gif").touch()
    assert run(f"--input={folder}", f"--output={tmp_path / 'out'}") == 1
    assert (tmp_path / "out" / name).exists()
    assert "caf?.png.gif: the file is empty" in capsys.readouterr().out


def test_the_binary_purifies_as_in_this_process(tmp_path):
    save(tmp_path / "a.png", random_pixels())
    flags = ("--input=a.png", "--output=out", "--splic_max_steps=1")
    result = binaries.start("train.purify", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(lines_of(tmp_path / "out" / "purify.jsonl")) == ["a.png"]
    # Optimized there and not here: a grey level may be rounded the other way.
    found = read(tmp_path / "out" / "a.png").astype(int)
    assert np.abs(found - expected(random_pixels(), "a.png")).max() <= 1


def test_the_binary_prints_one_line_and_exits_with_1(tmp_path):
    flags = ("--input=missing", "--output=out")
    result = binaries.run("train.purify", *flags, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "error: --input=missing: no such file or folder\n"
    assert result.stdout == ""


def test_purify_takes_the_index_of_each_image():
    images, key = random_pixels((3, *SHAPE)), jax.random.key(0)
    indices = np.array([2**31 - 1, 0, 7])
    purified = purify_images(images, key, CONFIG, indices=indices)
    for image, index, result in zip(images, indices, purified, strict=True):
        alone = purify_images(image, key, CONFIG, first_index=int(index))
        np.testing.assert_array_equal(result, alone)
    with pytest.raises(ValueError, match="indices must have shape"):
        purify_images(images, key, CONFIG, indices=indices[:2])


def test_pictures_are_classified_before_and_after(tmp_path, capsys):
    network = f"--network={given_networks.__file__}:logits"
    for level in (1, 7):
        grey = np.full(SHAPE, 25 * level + 12, np.uint8)
        save(tmp_path / "in" / f"{level}.png", grey)
    save(tmp_path / "in" / "alpha.png", np.full((*SHAPE[:2], 4), 140, np.uint8))
    flags = (f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--classify")
    for _ in range(2):  # also where they are done already
        assert run(*flags, network) == 0
        shown = capsys.readouterr().out
        rows = [re.findall(r"[\w.]+", x) for x in shown.splitlines() if ".png" in x]
        assert [row[:2] for row in rows] == [
            ["1.png", "1"],
            ["7.png", "7"],
            ["alpha.png", "5"],
        ]
        for row in rows:
            name = row[0]
            after = read(tmp_path / "out" / name)[..., :3].mean() / 255
            assert row[2] == str(int(10 * after))
    assert run(*flags, network, "--class_names=cifar10") == 0
    assert re.search(r"1\.png +│ automobile ", capsys.readouterr().out)
    with pytest.raises(UserError, match=r"10 logits an image; there are 100 names"):
        run(*flags, network, "--class_names=cifar100")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--classify",), "give --checkpoint, the folder of a training run, or"),
        (("--weights=a.npz",), "--weights needs --classify"),
        (("--class_names=cifar10",), "--class_names needs --classify"),
        (("--classify", "--network=no.py:net"), "no file no.py"),
    ],
)
def test_classify_needs_a_network(tmp_path, flags, message):
    path = save(tmp_path / "a.png", random_pixels())
    with pytest.raises(UserError, match=message):
        run(f"--input={path}", f"--output={tmp_path / 'b.png'}", *flags)
    assert not (tmp_path / "b.png").exists()
