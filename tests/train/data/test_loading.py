import io
import json
import tarfile
import threading
import time

import numpy as np
import pytest
import requests
import scipy.io
import tensorflow_datasets as tfds

from train.data import loading, shapes
from train.utils.errors import UserError


def cifar_batch(labels, seed=0):
    """A binary batch and its images; test_official tests what its bytes mean."""
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 32, 32, 3))
    rows = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    content = np.column_stack([labels, rows]).astype(np.uint8).tobytes()
    return content, images


def svhn_file(digits):
    images = np.random.default_rng(1).integers(
        0, 256, (32, 32, 3, len(digits)), np.uint8
    )
    file = io.BytesIO()
    scipy.io.savemat(file, {"X": images, "y": np.array(digits, np.uint8)[:, None]})
    return file.getvalue(), images.transpose(3, 0, 1, 2)


def assert_one_line(error):
    assert str(error.value) and "\n" not in str(error.value)


def test_shapes():
    dataset = loading.load("shapes", "test", num_examples=20, seed=3, texture_bias=0.5)
    drawn = shapes.make("test", 20, seed=3, texture_bias=0.5)
    assert dataset.name == "shapes" and dataset.class_names == shapes.CLASS_NAMES
    np.testing.assert_array_equal(dataset.images, drawn.images)
    np.testing.assert_array_equal(dataset.labels, drawn.shape_labels)
    np.testing.assert_array_equal(dataset.texture_labels, drawn.texture_labels)


@pytest.mark.parametrize("split", shapes.SPLITS)
def test_shapes_have_a_size_when_nobody_says(split, monkeypatch):
    monkeypatch.setitem(loading.NUM_SHAPES, split, 13)
    many = loading.load("shapes", split)
    assert len(many.images) == len(many.labels) == 13
    few = loading.load("shapes", split, num_examples=10)
    np.testing.assert_array_equal(few.images, many.images[:10])
    np.testing.assert_array_equal(few.labels, many.labels[:10])


def test_cifar_on_disk(tmp_path, monkeypatch):
    labels = np.arange(10)
    content, images = cifar_batch(labels)
    (tmp_path / "test_batch.bin").write_bytes(content)
    dataset = loading.load("cifar10", "test", data_dir=str(tmp_path))
    assert dataset.name == "cifar10" and dataset.texture_labels is None
    assert dataset.images.dtype == np.uint8 and dataset.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)
    # The order of batches.meta.
    assert dataset.class_names[:4] == ("airplane", "automobile", "bird", "cat")
    assert (
        dataset.class_names[8:] == ("ship", "truck") and len(dataset.class_names) == 10
    )

    few = loading.load("cifar10", "test", data_dir=str(tmp_path), num_examples=4)
    np.testing.assert_array_equal(few.images, images[:4])
    np.testing.assert_array_equal(few.labels, labels[:4])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(loading.load("cifar10", "test", data_dir="~").images) == 10
    with pytest.raises(UserError, match="test split of cifar10 has 10 images, not 11"):
        loading.load("cifar10", "test", data_dir=str(tmp_path), num_examples=11)


def test_svhn_on_disk(tmp_path):
    content, images = svhn_file([1, 10, 9])
    (tmp_path / "train_32x32.mat").write_bytes(content)
    dataset = loading.load("svhn_cropped", "train", data_dir=str(tmp_path))
    np.testing.assert_array_equal(dataset.images, images)
    assert dataset.labels.tolist() == [1, 0, 9]
    assert dataset.class_names == tuple("0123456789")
    with pytest.raises(UserError, match="has 3 images, not 4"):
        loading.load("svhn_cropped", "train", data_dir=str(tmp_path), num_examples=4)


@pytest.mark.parametrize(
    ("name", "split", "options", "message"),
    [
        (
            "mnist",
            "test",
            {},
            "unknown dataset 'mnist'; there are shapes, cifar10, cifar100, svhn",
        ),
        ("shapes", "extra", {}, "no split 'extra'; it has train, test, cue_conflict"),
        ("cifar10", "cue_conflict", {}, "no split 'cue_conflict'; it has train, test"),
        ("svhn_cropped", "extra", {}, "no split 'extra'; it has train, test"),
        ("shapes", "test", {"num_examples": 0}, "at least 1, not 0"),
        ("cifar10", "test", {"num_examples": -5}, "at least 1, not -5"),
        ("shapes", "test", {"seed": -1}, "seed must be in"),
        ("shapes", "test", {"texture_bias": 2}, "texture_bias must be in"),
        ("shapes", "test", {"data_dir": "."}, "leave out the data directory"),
        ("cifar10", "test", {"data_dir": "no/such"}, "no/such is not there"),
        ("svhn_cropped", "test", {"data_dir": "no/such"}, "no/such is not there"),
    ],
)
def test_mistakes_are_named_in_one_line(name, split, options, message):
    with pytest.raises(UserError, match=message) as error:
        loading.load(name, split, **options)
    assert_one_line(error)


@pytest.mark.parametrize("name", ["cifar10", "svhn_cropped"])
def test_prepared_by_tfds(name, monkeypatch):
    # mock_data makes images up, and does not pretend that they are files.
    monkeypatch.setattr(loading, "_is_prepared", lambda builder: True)
    with tfds.testing.mock_data(num_examples=5):
        dataset = loading.load(name, "test")
        assert dataset.images.shape == (5, 32, 32, 3)
        assert dataset.images.dtype == np.uint8 and dataset.labels.dtype == np.int32
        assert dataset.class_names == loading.CLASS_NAMES[name]
        examples = list(tfds.data_source(name, split="test"))
        expected = [example["image"] for example in examples]
        np.testing.assert_array_equal(dataset.images, expected)
        assert dataset.labels.tolist() == [example["label"] for example in examples]

        few = loading.load(name, "test", num_examples=3)
        np.testing.assert_array_equal(few.images, expected[:3])
        with pytest.raises(UserError, match="has 5 images, not 6"):
            loading.load(name, "test", num_examples=6)


class Downloads:
    """Stands in for the download manager: hands out files, or what goes wrong."""

    def __init__(self, files):
        self.files = files

    def __call__(self, download_dir, url_infos, dataset_name):
        self.url_infos = url_infos
        return self

    def download(self, url):
        assert url in self.url_infos, "tensorflow-datasets knows no checksum"
        found = self.files[url.rsplit("/", maxsplit=1)[-1]]
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    files = {}
    monkeypatch.setattr(tfds.download, "DownloadManager", Downloads(files))
    # Nothing is prepared here, whatever the machine has.
    monkeypatch.setattr(loading, "_is_prepared", lambda builder: False)
    monkeypatch.setattr(loading, "_require_answer", lambda url: None)
    return files


@pytest.fixture
def nothing_here(monkeypatch, tmp_path):
    """No data set is prepared or downloaded."""
    monkeypatch.setattr(loading, "_is_prepared", lambda builder: False)
    build = tfds.builder
    monkeypatch.setattr(tfds, "builder", lambda name: build(name, data_dir=tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["cifar10", "svhn_cropped"])
@pytest.mark.parametrize("silent", [False, True])
def test_without_a_network_a_download_fails_soon(
    name, silent, nothing_here, monkeypatch
):
    done = threading.Event()

    def get(url, stream, timeout):
        assert stream and timeout <= 10
        if silent:
            done.wait(60)
        raise requests.exceptions.ConnectionError("Name or service not known")

    monkeypatch.setattr(requests, "get", get)
    monkeypatch.setattr(loading, "_PATIENCE", 0.2)
    words = r"no answer from \S+\.edu within 0.2 s" if silent else "Name or service not"
    start = time.monotonic()
    with pytest.raises(UserError, match=f"{words}.*--data_dir=DIR") as error:
        loading.load(name, "test")
    done.set()
    assert_one_line(error)
    assert time.monotonic() - start < 20


def test_what_was_downloaded_needs_no_network(nothing_here, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(loading, "_require_answer", no_network)
    folder, url = nothing_here / "downloads", "http://ufldl.stanford.edu/housenumbers"
    url += "/test_32x32.mat"
    folder.mkdir()
    content, _ = svhn_file([10, 3])
    (folder / "kept.mat").write_bytes(content)
    assert not loading._is_downloaded(folder, url)
    (folder / "kept.mat.INFO").write_text(json.dumps({"urls": [url]}))
    assert loading._is_downloaded(folder, url)
    assert not loading._is_downloaded(folder, url.replace("test", "train"))
    monkeypatch.setattr(
        tfds.download, "DownloadManager", Downloads({"test_32x32.mat": folder / "kept"})
    )
    with pytest.raises(UserError, match="kept"):  # it went on to read it
        loading.load("svhn_cropped", "test")


def test_cifar_downloaded_through_tfds(downloads, tmp_path):
    # In the published archive, too, the batches are in no order.
    path = tmp_path / "cifar.tar.gz"
    expected = {}
    with tarfile.open(path, "w:gz") as archive:
        for number in (4, 1, 5, 2, 3):
            content, images = cifar_batch([number] * 3, seed=number)
            expected[number] = images
            member = tarfile.TarInfo(f"cifar-10-batches-bin/data_batch_{number}.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    downloads["cifar-10-binary.tar.gz"] = str(path)
    dataset = loading.load("cifar10", "train")
    assert dataset.labels.tolist() == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3
    expected = np.concatenate([expected[number] for number in range(1, 6)])
    np.testing.assert_array_equal(dataset.images, expected)
    few = loading.load("cifar10", "train", num_examples=4)
    np.testing.assert_array_equal(few.images, expected[:4])
    with pytest.raises(UserError, match="KeyError.*test_batch.bin.*--data_dir"):
        loading.load("cifar10", "test")


def test_svhn_downloaded_through_tfds(downloads, tmp_path):
    content, images = svhn_file([10, 3])
    path = tmp_path / "test.mat"
    path.write_bytes(content)
    downloads["test_32x32.mat"] = str(path)
    dataset = loading.load("svhn_cropped", "test")
    np.testing.assert_array_equal(dataset.images, images)
    assert dataset.labels.tolist() == [0, 3]


@pytest.mark.parametrize("name", ["cifar10", "svhn_cropped"])
def test_a_failed_download_says_what_to_do(name, downloads):
    failure = ConnectionError("Name or service not known\nand much more")
    downloads["cifar-10-binary.tar.gz"] = downloads["test_32x32.mat"] = failure
    with pytest.raises(UserError, match="Name or service.*--data_dir=DIR") as error:
        loading.load(name, "test")
    assert_one_line(error)


def test_a_broken_download_says_what_to_do(downloads, tmp_path):
    path = tmp_path / "broken.tar.gz"
    path.write_bytes(b"no archive")
    downloads["cifar-10-binary.tar.gz"] = str(path)
    with pytest.raises(UserError, match="ReadError.*--data_dir=DIR") as error:
        loading.load("cifar10", "test")
    assert_one_line(error)


def test_what_tfds_prepared_as_tf_records_is_not_read():
    class Format:
        value = "tfrecord"

    class Builder:
        class info:  # noqa: N801
            file_format = Format

        def is_prepared(self):
            return True

    assert not loading._is_prepared(Builder())
    Format.value = "array_record"
    assert loading._is_prepared(Builder())
    Builder.is_prepared = lambda self: False
    assert not loading._is_prepared(Builder())


@pytest.mark.parametrize(
    ("num_examples", "batch_size"), [(12, 4), (10, 4), (7, 7), (5, 1)]
)
def test_batches_visit_every_image_once_an_epoch(num_examples, batch_size):
    epochs = 4
    steps = epochs * num_examples // batch_size
    found = list(loading.batches(num_examples, batch_size, 0, num_steps=steps))
    assert len(found) == steps
    for batch in found:
        assert batch.shape == (batch_size,) and batch.dtype == np.int64
    visits = np.concatenate(found)
    full = len(visits) // num_examples
    orders = visits[: full * num_examples].reshape(full, num_examples)
    np.testing.assert_array_equal(np.sort(orders), [np.arange(num_examples)] * full)
    assert len({order.tobytes() for order in orders}) > 1


def test_a_resumed_run_sees_the_same_batches():
    whole = list(loading.batches(50, 8, 3, num_steps=20))
    for first_step in (0, 1, 13, 20):
        rest = list(loading.batches(50, 8, 3, first_step, num_steps=20))
        np.testing.assert_array_equal(rest, whole[first_step:] or rest)
        assert len(rest) == 20 - first_step
    other = list(loading.batches(50, 8, 4, num_steps=20))
    assert not np.array_equal(whole, other)
    again = list(loading.batches(50, 8, 3, num_steps=20))
    np.testing.assert_array_equal(whole, again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 11, 0), "from 1 to the number of training images, 10, not 11"),
        ((10, 0, 0), "not 0"),
        ((0, 1, 0), "images, 0, not 1"),
        ((10, 5, -1), "seed must be in"),
        ((10, 5, 2**32), "seed must be in"),
    ],
)
def test_batches_that_cannot_be_are_refused_at_once(arguments, message):
    with pytest.raises(UserError, match=message):
        loading.batches(*arguments, num_steps=1)
