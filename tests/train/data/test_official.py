import io
import pickle
import struct

import numpy as np
import pytest
import scipy.io

from train.data import official
from train.utils.errors import UserError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)


@pytest.fixture
def labels():
    return np.array([3, 9, 0, 1, 9, 5, 2], np.int32)


def planes(images):
    """The bytes of each image, as the CIFAR-10 page describes them."""
    return np.stack(
        [[*i[..., 0].flat, *i[..., 1].flat, *i[..., 2].flat] for i in images]
    )


def binary(images, labels):
    rows = zip(labels, planes(images), strict=True)
    return b"".join(bytes([label, *row]) for label, row in rows)


def python(images, labels, protocol=2):
    rows = planes(images).astype(np.uint8)
    return pickle.dumps({"data": rows, "labels": list(map(int, labels))}, protocol)


def python_2(images, labels):
    """The bytes that Python 2 wrote into the published files, opcode by opcode."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    data = planes(images).astype(np.uint8).tobytes()
    return b"".join(
        [
            b"\x80\x02}(",
            text(b"batch_label") + text(b"training batch 1 of 5"),
            text(b"data") + b"cnumpy.core.multiarray\n_reconstruct\n",
            b"cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R",
            b"(K\x01K" + bytes([len(images)]) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R",
            b"(K\x03" + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb",
            b"\x89T" + struct.pack("<i", len(data)) + data + b"tb",
            text(b"labels")
            + b"]("
            + b"".join(b"K" + bytes([i]) for i in labels)
            + b"e",
            text(b"filenames") + b"](" + text(b"a.png") + b"e",
            b"u.",
        ]
    )


def matlab(images, labels):
    file = io.BytesIO()
    digits = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
    scipy.io.savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": digits})
    return file.getvalue()


def assert_one_line(error):
    assert str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("write", "parse"),
    [
        (binary, official.parse_binary_batch),
        (python, official.parse_python_batch),
        (python_2, official.parse_python_batch),
        (matlab, official.parse_svhn),
    ],
)
def test_round_trip_and_every_kind_of_truncation(write, parse, images, labels):
    content = write(images, labels)
    read_images, read_labels = parse("file", content)
    assert read_images.dtype == np.uint8 and read_labels.dtype == np.int32
    assert read_images.flags.c_contiguous
    np.testing.assert_array_equal(read_images, images)
    np.testing.assert_array_equal(read_labels, labels)

    # The last bytes of a MATLAB file may be padding.
    end = len(content) - (8 if write is matlab else 1)
    for length in (*range(0, 200, 7), *range(200, end, 1531), end):
        with pytest.raises(UserError, match="^file ") as error:
            parse("file", content[:length])
        assert_one_line(error)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", ["_core", "core"])
def test_numpy_pickles_of_every_protocol_and_age(protocol, core, images, labels):
    content = python(images, labels, protocol)
    if protocol >= 4 and content[2:3] == b"\x95":  # A frame has a fixed length.
        content = content[:2] + content[11:]
    for function in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + function, b"numpy.core." + function
        for length in (bytes([len(new)]), b""):
            wanted = old if core == "core" else new
            shorter = bytes([len(wanted)]) if length else b""
            content = content.replace(length + new, shorter + wanted)
    assert f"numpy.{core}.".encode() in content
    read_images, read_labels = official.parse_python_batch("file", content)
    np.testing.assert_array_equal(read_images, images)
    np.testing.assert_array_equal(read_labels, labels)


def test_the_python_2_file_is_what_numpy_reads(images, labels):
    # Only numpy.core is missing from new versions; the rest is read by Python itself.
    content = python_2(images, labels).replace(b"numpy.core", b"numpy._core")
    batch = pickle.loads(content, encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], planes(images))
    assert batch[b"labels"] == labels.tolist()


def test_arrays_in_fortran_order_and_label_arrays(images, labels):
    rows = np.asfortranarray(planes(images).astype(np.uint8))
    for protocol in (2, 5):
        batch = {"data": rows, "labels": labels.astype(np.int64)}
        read = official.parse_python_batch("file", pickle.dumps(batch, protocol))
        np.testing.assert_array_equal(read[0], images)
        np.testing.assert_array_equal(read[1], labels)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_label_lists_of_numpy_integers(dtype, protocol, images, labels):
    for listed in (list(labels.astype(dtype)), labels.astype(dtype)):
        batch = {"data": planes(images).astype(np.uint8), "labels": listed}
        content = pickle.dumps(batch, protocol)
        read = official.parse_python_batch("file", content)
        np.testing.assert_array_equal(read[1], labels)


def test_label_lists_of_numpy_floats_are_refused(images, labels):
    rows = planes(images).astype(np.uint8)
    batch = {"data": rows, "labels": list(labels.astype(np.float32))}
    with pytest.raises(UserError, match="a number of type 'f4'") as error:
        official.parse_python_batch("file", pickle.dumps(batch))
    assert_one_line(error)


@pytest.mark.parametrize("function", ["os.system", "posix.system", "builtins.eval"])
def test_a_pickle_that_runs_commands_is_refused(tmp_path, function):
    marker = tmp_path / "marker"
    module, name = function.split(".")
    command = f"__import__('os').mkdir({str(marker)!r})"
    if name != "eval":
        command = f"mkdir {marker}"
    content = f"c{module}\n{name}\n(V{command}\ntR.".encode()
    with pytest.raises(UserError, match=f"it asks for {function}") as error:
        official.parse_python_batch("file", content)
    assert_one_line(error)
    assert not marker.exists()
    # The file does do harm elsewhere; otherwise the test would show nothing.
    pickle.loads(content)
    assert marker.exists()


@pytest.mark.parametrize(
    "value",
    [np.load, np.random.default_rng, {1, 2}.__class__, UserError],
)
def test_names_that_arrays_do_not_need_are_refused(value):
    with pytest.raises(UserError, match="it asks for"):
        official.parse_python_batch("file", pickle.dumps({"data": value}))


def test_bytes_that_claim_to_be_object_pointers_are_refused(labels):
    # Read by NumPy itself, the array below crashes the process when it is looked at.
    content = b"".join(
        [
            b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n",
            b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01\x85",
            b"cnumpy\ndtype\nU\x01OK\x00K\x01\x87R",
            b"(K\x03U\x01|NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb",
            b"\x89U\x08AAAAAAAAtbU\x06labels](K\x00eu.",
        ]
    )
    with pytest.raises(UserError, match="array of type 'O'"):
        official.parse_python_batch("file", content)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "no attribute 'items'"),
        ({"labels": [1]}, "KeyError: 'data'"),
        ({"data": np.zeros((1, 3072), np.uint8)}, "KeyError: 'labels'"),
        ({"data": np.zeros((1, 3071), np.uint8), "labels": [1]}, r"\[1, 3071\]"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "for 1 labels"),
        ({"data": np.zeros((1, 3072), np.int64), "labels": [1]}, "data is int64"),
        ({"data": np.zeros((1, 3072)), "labels": [1]}, "array of type 'f8'"),
        ({"data": np.zeros((1, 3072), ">i4"), "labels": [1]}, "big-endian"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": 1}, "1 labels"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["x"]}, "is x, not one of"),
        (
            {"data": np.zeros((1, 3072), np.uint8), "labels": [1.5]},
            "is 1.5, not one of",
        ),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "for 0 labels"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "is 10, not one of"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}, "is -1, not one of"),
    ],
)
def test_pickles_that_are_no_batch(batch, message):
    with pytest.raises(UserError, match=message) as error:
        official.parse_python_batch("file", pickle.dumps(batch, protocol=3))
    assert_one_line(error)


def test_binary_labels_outside_the_classes(images, labels):
    labels[4] = 10
    with pytest.raises(
        UserError, match="the label of image 4 is 10, not one of 0 to 9"
    ):
        official.parse_binary_batch("file", binary(images, labels))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "KeyError: 'y'"),
        ({"y": np.ones((2, 1))}, "KeyError: 'X'"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1))}, "X is float64"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((3, 1))}, "3 labels"),
        (
            {"X": np.zeros((2, 32, 32, 3), np.uint8), "y": np.ones((2, 1))},
            r"\[2, 32, 32, 3\]",
        ),
        (
            {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [0]]},
            "is 0, not one of",
        ),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[11], [1]]}, "is 11, not one"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1.5], [1]]}, "is 1.5, not"),
        ({"X": np.zeros((32, 32, 3, 1), np.uint8), "y": "a"}, "is a, not one of"),
        ({"X": np.zeros((32, 32, 3, 0), np.uint8), "y": np.ones((0, 1))}, "0 labels"),
    ],
)
def test_matlab_files_that_are_no_svhn(variables, message):
    file = io.BytesIO()
    scipy.io.savemat(file, variables)
    with pytest.raises(UserError, match=message) as error:
        official.parse_svhn("file", file.getvalue())
    assert_one_line(error)


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"])
def test_cifar_binary_files_in_the_directory_or_below(tmp_path, folder, images, labels):
    (tmp_path / folder).mkdir(exist_ok=True)
    for batch in range(5):
        content = binary(images[batch : batch + 1], labels[batch : batch + 1])
        (tmp_path / folder / f"data_batch_{batch + 1}.bin").write_bytes(content)
    (tmp_path / folder / "test_batch.bin").write_bytes(binary(images[5:], labels[5:]))
    read = official.load_cifar(tmp_path, "train", None)
    np.testing.assert_array_equal(read[0], images[:5])
    np.testing.assert_array_equal(read[1], labels[:5])
    read = official.load_cifar(tmp_path, "test", None)
    np.testing.assert_array_equal(read[0], images[5:])

    # Three images need three batches, whatever the others are like.
    (tmp_path / folder / "data_batch_4.bin").write_bytes(b"damaged")
    assert len(official.load_cifar(tmp_path, "train", 3)[0]) == 3
    with pytest.raises(UserError, match="data_batch_4.bin is truncated"):
        official.load_cifar(tmp_path, "train", 4)
    (tmp_path / folder / "data_batch_4.bin").unlink()
    with pytest.raises(UserError, match="but no data_batch_4.bin"):
        official.load_cifar(tmp_path, "train", None)


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-py"])
def test_cifar_python_files_in_the_directory_or_below(tmp_path, folder, images, labels):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "test_batch").write_bytes(python_2(images, labels))
    read = official.load_cifar(tmp_path, "test", None)
    np.testing.assert_array_equal(read[0], images)
    np.testing.assert_array_equal(read[1], labels)
    with pytest.raises(UserError, match="no CIFAR-10 train batches"):
        official.load_cifar(tmp_path, "train", None)


def test_svhn_files(tmp_path, images, labels):
    (tmp_path / "test_32x32.mat").write_bytes(matlab(images, labels))
    read = official.load_svhn(tmp_path, "test")
    np.testing.assert_array_equal(read[0], images)
    np.testing.assert_array_equal(read[1], labels)
    with pytest.raises(UserError, match="no train_32x32.mat in"):
        official.load_svhn(tmp_path, "train")


def test_directories_that_are_not_there_or_hold_something_else(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for name in ("file", "missing"):
        for call in (
            lambda name=name: official.load_cifar(tmp_path / name, "test", None),
            lambda name=name: official.load_svhn(tmp_path / name, "test"),
        ):
            message = "is a file; unpack it" if name == "file" else "is not there"
            with pytest.raises(UserError, match=f"{name} {message}") as error:
                call()
            assert_one_line(error)
    with pytest.raises(UserError, match="looked for test_batch.bin"):
        official.load_cifar(tmp_path, "test", None)
