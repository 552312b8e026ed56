"""CIFAR-10, CIFAR-100 and SVHN in the files that their authors publish.

The parsers take a name for messages and the bytes of a file, so that they serve files
on disk and members of an archive alike. A damaged file raises a `UserError`.

CIFAR-10 Python batches are pickles, and a pickle can call any function. Allowing
NumPy's own constructors is not safe: a pickled dtype can claim that the bytes of an
array are object pointers, and NumPy then follows them. So the names under which arrays
are pickled stand for functions here that only record their arguments.
"""

import io
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from train.utils.errors import UserError

CIFAR_BATCHES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
_PIXELS = 3 * 32 * 32
_INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")

Images = UInt8[np.ndarray, "n 32 32 3"]
Labels = Int32[np.ndarray, " n"]
Batch = tuple[Images, Labels]


def load_cifar(directory: Path, split: str, num_examples: int | None) -> Batch:
    """Reads CIFAR-10 batches, as many of them as hold `num_examples` images.

    They are looked for in the directory and in the sub-directory that their archive
    makes, the binary ones first. Returns `Images` and `Labels` in 0 .. 9.
    """
    names = CIFAR_BATCHES[split]
    _check_directory(directory)
    for subdirectory, suffix, parse in (
        ("cifar-10-batches-bin", ".bin", parse_binary_batch),
        ("cifar-10-batches-py", "", parse_python_batch),
    ):
        for folder in (directory, directory / subdirectory):
            paths = [folder / f"{name}{suffix}" for name in names]
            if any(os.path.isfile(path) for path in paths):
                return collect(_parse_files(paths, parse), num_examples)
    raise UserError(
        f"no CIFAR-10 {split} batches in {directory}: looked for {names[0]}.bin there "
        f"and in cifar-10-batches-bin, for {names[0]} there and in cifar-10-batches-py"
    )


def load_cifar100(directory: Path, split: str) -> Batch:
    """Reads `train.bin` or `test.bin`; `Labels` are the fine ones, in 0 .. 99.

    It is looked for in the directory and in the sub-directory that its archive makes.
    """
    _check_directory(directory)
    for folder in (directory, directory / "cifar-100-binary"):
        path = folder / f"{split}.bin"
        if os.path.isfile(path):
            return parse_cifar100(str(path), _read(path))
    raise UserError(
        f"no CIFAR-100 {split}.bin in {directory}: looked for it there and in "
        "cifar-100-binary"
    )


def load_svhn(directory: Path, split: str) -> Batch:
    """Reads `train_32x32.mat` or `test_32x32.mat`."""
    _check_directory(directory)
    path = directory / f"{split}_32x32.mat"
    if not os.path.isfile(path):
        raise UserError(f"no {path.name} in {directory} (SVHN, cropped digits)")
    return parse_svhn(str(path), _read(path))


def collect(parts: Iterable[Batch], num_examples: int | None) -> Batch:
    """Joins batches until `num_examples` images are there, or all of them."""
    images, labels, count = [], [], 0
    for batch_images, batch_labels in parts:
        images.append(batch_images)
        labels.append(batch_labels)
        count += len(batch_labels)
        if num_examples is not None and count >= num_examples:
            break
    return np.concatenate(images), np.concatenate(labels)


def parse_binary_batch(where: str, content: bytes) -> Batch:
    """Reads records of a label and 3072 bytes: red, green and blue, row by row."""
    records = _records(where, content, 1, "CIFAR-10 binary batch")
    return _from_planes(records[:, 1:]), _check_labels(where, records[:, 0], 0, 9)


def parse_cifar100(where: str, content: bytes) -> Batch:
    """Reads records of a coarse label, a fine label and 3072 bytes as above."""
    records = _records(where, content, 2, "CIFAR-100 binary file")
    return _from_planes(records[:, 2:]), _check_labels(where, records[:, 1], 0, 99)


def _records(where: str, content: bytes, labels: int, kind: str) -> np.ndarray:
    size = labels + _PIXELS
    if not content or len(content) % size:
        raise UserError(
            f"{where} is truncated or no {kind}: its {len(content)} bytes are not a "
            f"multiple of {size}"
        )
    return np.frombuffer(content, np.uint8).reshape(-1, size)


def parse_python_batch(where: str, content: bytes) -> Batch:
    """Reads a pickled dict: data uint8 [n, 3072] in the order above, and labels."""
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        # Python 2 wrote the keys as bytes, Python 3 writes them as text.
        batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
        rows, labels = batch["data"].array(), batch["labels"]
        if isinstance(labels, _PickledArray):
            labels = labels.array()
        labels = np.asarray(labels)
    except Exception as error:  # Damaged bytes raise anything at all.
        raise UserError(
            f"{where} is damaged or no CIFAR-10 Python batch: {one_line(error)}"
        ) from error
    if rows.dtype != np.uint8 or not rows.size or rows.shape != (*labels.shape, 3072):
        raise UserError(
            f"{where} is no CIFAR-10 Python batch: data is {rows.dtype} "
            f"{list(rows.shape)} for {labels.size} labels, not uint8 [n, 3072] for n"
        )
    return _from_planes(rows), _check_labels(where, labels, 0, 9)


def parse_svhn(where: str, content: bytes) -> Batch:
    """Reads X, uint8 [32, 32, 3, n], and y in 1 .. 10, where 10 is the digit 0."""
    import scipy.io

    try:
        variables = scipy.io.loadmat(io.BytesIO(content), variable_names=("X", "y"))
        images, labels = variables["X"], variables["y"].ravel()
    except Exception as error:  # So does SciPy.
        raise UserError(
            f"{where} is damaged or no SVHN file: {one_line(error)}"
        ) from error
    shape = (32, 32, 3, len(labels))
    if images.dtype != np.uint8 or not images.size or images.shape != shape:
        raise UserError(
            f"{where} is no SVHN file: X is {images.dtype} {list(images.shape)} for "
            f"{len(labels)} labels, not uint8 [32, 32, 3, n] for n"
        )
    labels = _check_labels(where, labels, 1, 10) % 10
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels


def one_line(error: Exception) -> str:
    """The type of an exception and the beginning of what it says."""
    lines = str(error).strip().splitlines()
    return (
        f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    )


def _parse_files(
    paths: list[Path], parse: Callable[[str, bytes], Batch]
) -> Iterator[Batch]:
    for path in paths:
        if not os.path.isfile(path):
            raise UserError(f"{path.parent} holds CIFAR-10 batches, but no {path.name}")
        yield parse(str(path), _read(path))


def _check_directory(directory: Path) -> None:
    if os.path.isfile(directory):
        raise UserError(
            f"the data directory {directory} is a file; unpack it, and give the "
            "directory with what was in it"
        )
    if not os.path.isdir(directory):
        raise UserError(f"the data directory {directory} is not there")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _from_planes(rows: UInt8[np.ndarray, "n 3072"]) -> Images:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _check_labels(where: str, labels: np.ndarray, low: int, high: int) -> Labels:
    wrong = np.flatnonzero(~np.isin(labels, np.arange(low, high + 1)))
    if wrong.size:
        raise UserError(
            f"{where}: the label of image {wrong[0]} is {labels[wrong[0]]}, not one of "
            f"{low} to {high}"
        )
    return labels.astype(np.int32)


class _PickledDtype:
    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        if state[1] in (">", b">"):
            raise pickle.UnpicklingError("an array in big-endian order")


class _PickledArray:
    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.data = state

    def array(self) -> np.ndarray:
        code = self.dtype.code
        if code not in _INTEGERS:
            raise pickle.UnpicklingError(f"an array of type {code!r}")
        order = "F" if self.is_fortran else "C"
        return np.frombuffer(self.data, f"<{code}").reshape(self.shape, order=order)


def _reconstruct(subtype: Any, shape: Any, code: Any) -> _PickledArray:
    return _PickledArray()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _PickledArray:
    array = _PickledArray()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: Any, data: Any) -> int:
    """A NumPy integer by itself, as one of a list of labels."""
    if dtype.code not in _INTEGERS:
        raise pickle.UnpicklingError(f"a number of type {dtype.code!r}")
    return int(np.frombuffer(data, f"<{dtype.code}").item())


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes into the protocols of Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


# NumPy 2 moved numpy.core to numpy._core; arrays are pickled by the first function,
# and since protocol 5 by the second.
_ALLOWED = {
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledDtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads containers, numbers, text, bytes and NumPy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]
