"""The context of the items of the GPU benchmark: data, sizes, time, results."""

import concurrent.futures
import dataclasses
import functools
import io
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from PIL import Image

from train.records import provenance
from train.records.storing import write_record

_JPEG, _LOSSLESS = "cifar10_jpeg.npz", "cifar10_lossless_test.npz"
FILES = _JPEG, _LOSSLESS, "resnet56_cifar10.npz"  # of the data

_DECODERS = 16
_TOY_TRAIN, _TOY_TEST = 256, 64

Size = TypeVar("Size")


class Program(NamedTuple):
    """A function to compile, with its arguments.

    Attributes:
        name: of the program, in words.
        function: from `jax.jit`.
        arguments: arrays or `jax.ShapeDtypeStruct`s, and static arguments.
        options: keyword arguments, likewise.
        family: of programs with the same convolutions, whose algorithms are chosen for
            the first of them, before the others are compiled.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = {}
    family: str | None = None

    @property
    def key(self) -> tuple[Any, str]:
        """Equal for equal programs, which several items may share."""
        return self.function, self.name


class Images(NamedTuple):
    """Labeled images.

    Attributes:
        images: uint8 ``[n, 32, 32, 3]``.
        labels: int32 ``[n]``, in [0, 10).
        name: of the images in results.
    """

    images: np.ndarray
    labels: np.ndarray
    name: str


@dataclasses.dataclass(frozen=True)
class Context:
    """The folders of an item's data and results, and the time left.

    Attributes:
        data: folder with ``cifar10_jpeg.npz``, ``cifar10_lossless_test.npz`` and
            ``resnet56_cifar10.npz``; not read where `toy`.
        out: folder for small results.
        state: folder for what later items and calls on this machine need, such as
            weights.
        toy: a rehearsal: everything at the smallest size, on synthetic images.
        deadline: of the whole program, by `time.monotonic`.
    """

    data: pathlib.Path
    out: pathlib.Path
    state: pathlib.Path
    toy: bool
    deadline: float

    def size(self, full: Size, toy: Size) -> Size:
        """`full`, or `toy` in a rehearsal."""
        return toy if self.toy else full

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def line(self, text: str) -> None:
        """Prints a line, unbuffered."""
        print(text, flush=True)

    def save(self, name: str, record: Mapping[str, Any]) -> None:
        """Writes ``out/name.json`` with its provenance; replaces an older one."""
        whole = {"provenance": provenance.provenance(), **record}
        write_record(self.out / f"{name}.json", whole)

    def train_set(self) -> Images:
        """50,000 images, JPEG export."""
        return _toy(_TOY_TRAIN, 0) if self.toy else _jpeg(self.data, "train")

    def test_set(self) -> Images:
        """10,000 images, JPEG export."""
        return _toy(_TOY_TEST, 1) if self.toy else _jpeg(self.data, "test")

    def originals(self) -> Images:
        """600 original test images."""
        if self.toy:
            return _toy(_TOY_TEST, 1)
        with np.load(self.data / _LOSSLESS) as archive:
            images, labels = archive["images"], archive["labels"].astype(np.int32)
        return Images(images, labels, "CIFAR-10, 600 original test images")


@functools.cache
def _jpeg(folder: pathlib.Path, split: str) -> Images:
    with np.load(folder / _JPEG) as archive:
        header = archive["header"].tobytes()
        scans = archive[f"{split}_scans"].tobytes()
        ends = np.cumsum(archive[f"{split}_lengths"], dtype=np.int64)
        labels = archive[f"{split}_labels"].astype(np.int32)
    starts = np.concatenate([[0], ends[:-1]])

    def decode(start: int, end: int) -> np.ndarray:
        with Image.open(io.BytesIO(header + scans[start:end])) as image:
            return np.asarray(image.convert("RGB"))

    with concurrent.futures.ThreadPoolExecutor(_DECODERS) as pool:
        images = np.stack(list(pool.map(decode, starts, ends)))
    return Images(images, labels, f"CIFAR-10, JPEG export, {len(images):,} {split}")


@functools.cache
def _toy(count: int, seed: int) -> Images:
    """Smooth gradients in ten hues: of low rank, and learnable by a network."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count).astype(np.int32)
    axis = np.linspace(0, 1, 32)
    slopes = rng.uniform(-1, 1, (count, 2, 1, 1))
    gray = slopes[:, 0] * axis + slopes[:, 1] * axis[:, None]
    hues = 0.5 + 0.4 * np.cos(labels[:, None] * 0.6 + np.arange(3) * 2.1)
    values = hues[:, None, None] + 0.15 * gray[..., None]
    values = values + rng.normal(0, 0.02, values.shape)
    images = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return Images(images, labels, f"{count} drawn images, a rehearsal")


def timed(run: Callable[[], Any], *, repeats: int) -> list[float]:
    """Seconds of each run, after a run that compiles."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - start)
    return taken


def interval(correct: int, count: int) -> dict[str, float]:
    """An accuracy with its Wilson interval at 95 %, as plain numbers."""
    from scipy import stats

    found = stats.binomtest(correct, count).proportion_ci(0.95, "wilson")
    return {
        "correct": int(correct),
        "count": int(count),
        "accuracy": correct / count,
        "low": float(found.low),
        "high": float(found.high),
    }
