from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from train.data import loading
from train.data.loading import load
from train.utils.errors import UserError


def pixels(label, side=8, channels=3):
    shape = (side, side, channels) if channels > 1 else (side, side)
    return np.full(shape, 20 * label + 5, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three classes, of which the test split lacks one; of one size."""
    for split, names in (("train", "cat ant bee"), ("test", "cat bee")):
        for name in names.split():
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(4):
                path = tmp_path / split / name / f"{number}.png"
                Image.fromarray(pixels("ant bee cat".split().index(name))).save(path)
    (tmp_path / "test" / "cat" / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_of_a_class_each(folder):
    found = load("folder", "test", data_dir=str(folder))
    assert found.class_names == ("ant", "bee", "cat")
    assert found.images.shape == (8, 8, 8, 3) and found.images.dtype == np.uint8
    assert sorted(found.labels.tolist()) == [1] * 4 + [2] * 4
    np.testing.assert_array_equal(found.images[:, 0, 0, 0], 20 * found.labels + 5)
    # The first are a sample: the classes are mixed, whatever their number.
    assert set(found.labels[:4].tolist()) == {1, 2}
    some = load("folder", "test", data_dir=str(folder), num_examples=3)
    np.testing.assert_array_equal(some.labels, found.labels[:3])
    assert set(load("folder", "train", data_dir=str(folder)).labels) == {0, 1, 2}


def test_pictures_of_several_sizes_are_resized(folder):
    gradient = np.linspace(0, 255, 24).astype(np.uint8)
    wide = np.broadcast_to(gradient[None, :, None], (8, 24, 3))
    path = folder / "test" / "cat" / "wide.png"
    Image.fromarray(np.ascontiguousarray(wide)).save(path)
    with pytest.raises(UserError, match="8 x 24 pixels.*give --resize=H|8 x 8; give"):
        load("folder", "test", data_dir=str(folder))
    found = load("folder", "test", data_dir=str(folder), resize=4)
    assert found.images.shape == (9, 4, 4, 3)
    (odd,) = found.images[found.images.std(axis=(1, 2, 3)) > 0]
    # Of the square in the middle, each pixel two wide; the filter is symmetric.
    inner = gradient[8:16].reshape(4, 2).mean(axis=1)
    np.testing.assert_allclose(odd[0, :, 0], inner, atol=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "folder"}, "--dataset=folder needs --data_dir"),
        ({"name": "folder", "data_dir": "no"}, "no folder no/test"),
        ({"name": "npz", "data_dir": "no.npz"}, "cannot read no.npz: No such file"),
        ({"name": "cifar10", "resize": 4}, "--resize is for folder and tfds:NAME"),
        ({"name": "tfds:"}, "unknown dataset 'tfds:'"),
        ({"name": "tfds:no_such_set"}, "no data set tfds:no_such_set"),
    ],
)
def test_what_is_not_there_is_named(options, message):
    with pytest.raises(UserError, match=message) as caught:
        load(split="test", **options)
    assert "\n" not in str(caught.value)


def test_pictures_that_are_none_are_named(folder):
    (folder / "test" / "bee" / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read .*bee.0\.png"):
        load("folder", "test", data_dir=str(folder))
    with pytest.raises(UserError, match="no pictures in"):
        (folder / "other" / "test" / "ant").mkdir(parents=True)
        load("folder", "test", data_dir=str(folder / "other"))


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_in_a_file(tmp_path, channels):
    labels = np.array([0, 2, 1])
    images = np.stack([pixels(label, 6, channels) for label in labels])
    np.savez(tmp_path / "test.npz", images=images, labels=labels)
    np.savez(tmp_path / "train.npz", images=images[:1], labels=np.array([4]))
    found = load("npz", "test", data_dir=str(tmp_path))
    np.testing.assert_array_equal(found.images, images.reshape(3, 6, 6, channels))
    assert found.labels.tolist() == [0, 2, 1] and found.labels.dtype == np.int32
    assert found.class_names == tuple("01234")  # of both splits
    alone = load("npz", "test", data_dir=str(tmp_path / "test.npz"))
    assert alone.class_names == tuple("012")
    with pytest.raises(UserError, match="one file, for testing"):
        load("npz", "train", data_dir=str(tmp_path / "test.npz"))
    named = {"images": images, "labels": labels, "class_names": ["a", "b", "c"]}
    np.savez(tmp_path / "named.npz", **named)
    found = load("npz", "test", data_dir=str(tmp_path / "named.npz"))
    assert found.class_names == ("a", "b", "c")


IMAGES, LABELS = np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "labels is not a file|no .npz with images and labels"),
        ({"images": IMAGES / 255, "labels": LABELS}, "must be uint8 .* got float64"),
        (
            {"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS},
            "1 or 3 channels, .*transpose NCHW to NHWC",
        ),
        (
            {"images": IMAGES, "labels": np.eye(3)},
            r"one-hot labels store labels.argmax",
        ),
        ({"images": IMAGES, "labels": LABELS[:2]}, "3 images need as many labels"),
        ({"images": IMAGES, "labels": -LABELS}, "as many labels, from 0 on"),
        (
            {"images": IMAGES, "labels": LABELS, "class_names": ["a", "b"]},
            "label 2 has no class name",
        ),
    ],
)
def test_arrays_of_another_kind_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "test.npz", **arrays)
    with pytest.raises(UserError, match=message) as caught:
        load("npz", "test", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_set_that_tfds_has_prepared(monkeypatch):
    sizes = (8, 8, 12)
    examples = [
        {"image": pixels(label, side), "label": label}
        for label, side in enumerate(sizes)
    ]
    info = SimpleNamespace(
        splits={"test": 3},
        features={"label": SimpleNamespace(names=["a", "b", "c"])},
        file_format=SimpleNamespace(value="array_record"),
    )
    builder = SimpleNamespace(info=info, data_dir="there")
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    monkeypatch.setattr(tfds, "data_source", lambda name, **options: examples)
    found = load("tfds:pets", "test", num_examples=2)
    assert (found.name, found.class_names) == ("tfds:pets", ("a", "b", "c"))
    assert found.images.shape == (2, 8, 8, 3) and found.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="image 2 of tfds:pets has 12 x 12 pixels"):
        load("tfds:pets", "test")
    assert load("tfds:pets", "test", resize=6).images.shape == (3, 6, 6, 3)
    with pytest.raises(UserError, match="no split 'train'; it has test"):
        load("tfds:pets", "train")
    info.file_format.value = "tfrecord"
    with pytest.raises(UserError, match="tfds build pets --file_format=array_record"):
        load("tfds:pets", "test")


def test_cifar100_in_the_files_of_its_authors(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    records = [
        bytes([coarse, fine]) + image.transpose(2, 0, 1).tobytes()
        for coarse, fine, image in zip((0, 1, 2), (99, 0, 53), images, strict=True)
    ]
    (tmp_path / "cifar-100-binary").mkdir()
    (tmp_path / "cifar-100-binary" / "test.bin").write_bytes(b"".join(records))
    found = load("cifar100", "test", data_dir=str(tmp_path), num_examples=2)
    np.testing.assert_array_equal(found.images, images[:2])
    assert [found.class_names[label] for label in found.labels] == ["worm", "apple"]
    assert loading.CLASS_NAMES["cifar100"][53] == "orange"
    assert len(set(found.class_names)) == 100
    with pytest.raises(UserError, match=r"no CIFAR-100 train\.bin"):
        load("cifar100", "train", data_dir=str(tmp_path))
