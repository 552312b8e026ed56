"""Loads data sets, from every source by one function, `load`.

    load("shapes", "train")                              # drawn here, no download
    load("cifar10", "test", data_dir="~/data")           # files on disk
    load("svhn_cropped", "test", num_examples=1000)      # tensorflow-datasets
    load("folder", "test", data_dir="pets", resize=64)   # anybody's pictures

`batches` gives the order in which training visits the images.
"""

import dataclasses
import os
import tarfile
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from train.data import official, pictures, shapes
from train.utils.errors import UserError
from train.utils.optional import require

CLASS_NAMES = {
    "shapes": shapes.CLASS_NAMES,
    "cifar10": tuple(
        "airplane automobile bird cat deer dog frog horse ship truck".split()
    ),
    "cifar100": tuple(
        """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy
        bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock
        cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
        forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
        lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange
        orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
        possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
        snail snake spider squirrel streetcar sunflower sweet_pepper table tank
        telephone television tiger tractor train trout tulip turtle wardrobe whale
        willow_tree wolf woman worm
        """.split()
    ),
    "svhn_cropped": tuple("0123456789"),
}
SPLITS = {
    "shapes": shapes.SPLITS,
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "svhn_cropped": ("train", "test"),
    "folder": ("train", "test"),
    "npz": ("train", "test"),
}
PREPARED = "tfds:"  # prefix of a set that tensorflow-datasets has prepared
RESIZED = ("folder", PREPARED)

# As `load` takes them.
NAMES = (*SPLITS, f"{PREPARED}NAME")

# `shapes` can be drawn without end; these are its default sizes.
NUM_SHAPES = {"train": 10_000, "test": 2_000, "cue_conflict": 2_000}

_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-{}-binary.tar.gz"
# Seconds for a server to begin to answer.
_PATIENCE = 10.0
_SVHN_URL = "http://ufldl.stanford.edu/housenumbers"

Images = UInt8[np.ndarray, "n h w c"]
Labels = Int32[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A split in memory.

    Attributes:
        name: as `load` has it.
        images, labels, class_names: see there.
        texture_labels: of `shapes` only (see there).
        note: which images of that name these are, in words, where somebody says it, as
            "600 original test images".
    """

    name: str
    images: Images
    labels: Labels
    class_names: tuple[str, ...]
    texture_labels: Labels | None = None
    note: str | None = None

    def record(self, split: str, count: int | None = None) -> dict[str, Any]:
        """What results say of it.

        Args:
            split: what it is of the set.
            count: how many of its images were used; None for all.
        """
        count = len(self.images) if count is None else count
        words = {"name": self.name, "split": split, "count": count}
        return words | {"images": self.note}


def load(
    name: str,
    split: str,
    *,
    data_dir: str | None = None,
    num_examples: int | None = None,
    seed: int = 0,
    texture_bias: float = shapes.DEFAULT_TEXTURE_BIAS,
    resize: int | None = None,
) -> Dataset:
    """Loads a split, or its first `num_examples` images.

    Args:
        name: "shapes" (drawn by `train.data.shapes`), "cifar10", "cifar100" or
            "svhn_cropped"; "folder" or "npz", as `train.data.pictures` reads them; or
            "tfds:NAME".
        split: "train" or "test"; for `shapes` also "cue_conflict".
        data_dir: for "folder" and "npz", where they are; for "tfds:NAME", where
            tensorflow-datasets keeps its sets, if not in its usual place. For the
            others, a directory with the files as their authors publish them: CIFAR-10
            binary or Python batches, or CIFAR-100 binary files (in the directory or in
            the sub-directory their archive makes), or SVHN `train_32x32.mat` and
            `test_32x32.mat`. Without it they come from tensorflow-datasets, which
            downloads them on first use; the order of the images is that of the source.
        num_examples: how many; all there are (for `shapes`, `NUM_SHAPES`) if None.
        seed: of `shapes`; the real sets have none.
        texture_bias: of `shapes`: how often the texture agrees with the class.
        resize: side to which pictures of a folder or of TFDS are resized
            (`train.data.pictures.resized`); None if all have one size.

    Returns:
        Images uint8 [n, h, w, c] and labels int32 [n], the places of `class_names`.

    Raises:
        UserError: for an unknown set or split, missing or damaged files, or invalid
            values.
    """
    if not is_known(name):
        raise UserError(f"unknown dataset {name!r}; there are {', '.join(NAMES)}")
    splits = SPLITS.get(name, ("train", "test"))
    if split not in splits:
        names = ", ".join(splits)
        raise UserError(f"{name} has no split {split!r}; it has {names}")
    if resize is not None and not name.startswith(RESIZED):
        raise UserError(f"--resize is for folder and tfds:NAME, not {name}")
    if num_examples is not None and num_examples < 1:
        raise UserError(f"num_examples must be at least 1, not {num_examples}")

    if name == "shapes":
        if data_dir is not None:
            raise UserError("shapes is drawn, not read: leave out the data directory")
        count = NUM_SHAPES[split] if num_examples is None else num_examples
        try:
            drawn = shapes.make(split, count, seed=seed, texture_bias=texture_bias)
        except ValueError as error:
            raise UserError(str(error)) from error
        return Dataset(
            name,
            drawn.images,
            drawn.shape_labels,
            CLASS_NAMES[name],
            drawn.texture_labels,
        )
    path = data_dir and Path(os.path.expanduser(data_dir))
    if name in ("folder", "npz") and path is None:
        raise UserError(f"--dataset={name} needs --data_dir, where it is")
    class_names = CLASS_NAMES.get(name)
    if name == "folder":
        found = pictures.load_folder(path, split, num_examples, resize)
        images, labels, class_names = found
    elif name == "npz":
        images, labels, class_names = pictures.load_npz(path, split)
    elif name.startswith(PREPARED):
        images, labels, class_names = pictures.load_prepared(
            name.removeprefix(PREPARED),
            split,
            path and str(path),
            num_examples,
            resize,
        )
    elif path is None:
        images, labels = _load_tfds(name, split, num_examples)
    elif name == "cifar10":
        images, labels = official.load_cifar(path, split, num_examples)
    elif name == "cifar100":
        images, labels = official.load_cifar100(path, split)
    else:
        images, labels = official.load_svhn(path, split)
    if num_examples is not None and num_examples > len(images):
        raise UserError(
            f"the {split} split of {name} has {len(images)} images, not {num_examples}"
        )
    return Dataset(name, images[:num_examples], labels[:num_examples], class_names)


def is_known(name: str) -> bool:
    """Whether `load` takes a data set of this name."""
    return name in SPLITS or (name.startswith(PREPARED) and name != PREPARED)


def batches(
    num_examples: int,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    *,
    num_steps: int,
) -> Iterator[Int64[np.ndarray, " batch_size"]]:
    """Gives the indices of the training images for steps first_step to num_steps - 1.

    Every epoch is a new permutation, and epochs follow each other without a gap: every
    batch is full and no image is left out. The batch of a step depends on the first
    three arguments and on the step, so a run resumed at `first_step` sees the same
    batches. Seeds are in [0, 2**32).
    """
    if not 1 <= batch_size <= num_examples:
        raise UserError(
            f"the batch size must be from 1 to the number of training images, "
            f"{num_examples}, not {batch_size}"
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"seed must be in [0, 2**32), not {seed}")
    # Imported here, like tensorflow-datasets below, because only some runs need it.
    grain = require("grain")
    order = grain.MapDataset.range(num_examples).seed(seed).shuffle().repeat()
    order = order.batch(batch_size, drop_remainder=True)
    return (np.asarray(order[step], np.int64) for step in range(first_step, num_steps))


def _load_tfds(name: str, split: str, num_examples: int | None) -> official.Batch:
    """Reads a set from tensorflow-datasets, prepared or as the official file.

    A prepared set can be read without TensorFlow, but these cannot be prepared without
    it (issue 11058 of tensorflow/datasets). If the set is not prepared, the download
    manager fetches the official file, verifies its checksum and keeps it, and it is
    read like a file on disk. The two ways order the images differently.
    """
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder(name)
        if _is_prepared(builder):
            source = tfds.data_source(name, split=split, download=False)
            count = min(len(source), num_examples or len(source))
            examples = [source[index] for index in range(count)]
            return (
                np.stack([example["image"] for example in examples]),
                np.array([example["label"] for example in examples], np.int32),
            )
        download = tfds.download.DownloadManager(
            download_dir=Path(builder.data_dir_root) / "downloads",
            url_infos=builder.url_infos,
            dataset_name=name,
        ).download
        svhn = name == "svhn_cropped"
        url = f"{_SVHN_URL}/{split}_32x32.mat"
        if not svhn:
            url = _CIFAR_URL.format(name.removeprefix("cifar"))
        if not _is_downloaded(Path(builder.data_dir_root) / "downloads", url):
            _require_answer(url)
        path = Path(download(url))
        if svhn:
            return official.parse_svhn(str(path), path.read_bytes())
        if name == "cifar100":
            member = f"cifar-100-binary/{split}.bin"
            content = _members(str(path), [member])[member]
            return official.parse_cifar100(f"{member} in {path}", content)
        return official.collect(_cifar_members(str(path), split), num_examples)
    except UserError:
        raise
    except Exception as error:  # No network, no disk, no package, a broken download.
        raise UserError(
            f"cannot get {name} through tensorflow-datasets "
            f"({official.one_line(error)}); with its files on disk, use --data_dir=DIR"
        ) from error


def _is_prepared(builder: Any) -> bool:
    """Whether there are files that `tfds.data_source` can read."""
    return builder.is_prepared() and builder.info.file_format.value == "array_record"


def _is_downloaded(folder: Path, url: str) -> bool:
    """Whether tensorflow-datasets has downloaded `url`, by its own record."""
    return any(
        note.with_suffix("").exists() and url in note.read_text(errors="replace")
        for note in folder.glob("*.INFO")
    )


def _require_answer(url: str) -> None:
    """Requests a file without reading it, to notice early that there is no network.

    tensorflow-datasets retries eleven times, which takes minutes, and has no timeout.
    Uses a proxy where it would.

    Raises:
        OSError: with the reason.
    """
    import requests  # which tensorflow-datasets downloads with

    failures: list[Exception] = []

    def ask() -> None:
        try:
            requests.get(url, stream=True, timeout=_PATIENCE).close()
        except Exception as error:
            failures.append(error)

    # In a thread, since looking up a name has no timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    host = urllib.parse.urlsplit(url).netloc
    if asking.is_alive():
        raise TimeoutError(f"no answer from {host} within {_PATIENCE:g} s")
    for error in failures:
        # requests wraps the reason that urllib3 gives.
        inner = getattr(error.args[0], "reason", None) if error.args else None
        reason = official.one_line(inner if isinstance(inner, Exception) else error)
        raise OSError(f"no answer from {host}: {reason}") from error


def _cifar_members(path: str, split: str) -> Iterator[official.Batch]:
    names = [
        f"cifar-10-batches-bin/{name}.bin" for name in official.CIFAR_BATCHES[split]
    ]
    contents = _members(path, names)
    for name in names:
        yield official.parse_binary_batch(f"{name} in {path}", contents[name])


def _members(path: str, names: list[str]) -> dict[str, bytes]:
    # One pass in the order of the archive, which cannot be read backwards.
    with tarfile.open(path, "r|*") as archive:
        return {
            member.name: archive.extractfile(member).read()
            for member in archive
            if member.name in names
        }
