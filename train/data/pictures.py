"""Labelled pictures of any kind: folders, arrays, and sets that TFDS has prepared.

    DIR/train/CLASS/*.png, DIR/test/CLASS/*.jpg     load_folder
    DIR/train.npz, DIR/test.npz, or one file        load_npz
    array_record files of tensorflow-datasets       load_prepared

Each returns uint8 images of one size, their labels, and the names of the classes.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageOps

from train.data.official import one_line
from train.utils.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")


class Pictures(NamedTuple):
    """Images of one size, NHWC, with labels and what the labels mean."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]


def load_folder(
    directory: Path, split: str, count: int | None, resize: int | None
) -> Pictures:
    """Reads the pictures below `directory`/`split`, a folder for each class, as RGB.

    The classes are the folders' names in alphabetical order, of both splits together.
    The pictures come in an order that mixes the classes and that depends on the names
    alone, so that the first `count` are a sample of all.

    Raises:
        UserError: if there are none, or they differ in size and are not to be resized.
    """
    folder = directory / split
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; it holds a folder of pictures a class")
    names = sorted(
        {
            path.name
            for each in (directory / "train", directory / "test")
            if each.is_dir()
            for path in each.iterdir()
            if path.is_dir()
        }
    )
    paths = [
        path
        for name in names
        for path in (folder / name).glob("**/*")
        if path.suffix.lower() in SUFFIXES
    ]
    if not paths:
        raise UserError(
            f"no pictures in {folder}: looked for CLASS/*{', CLASS/*'.join(SUFFIXES)}"
        )

    def place(path: Path) -> bytes:
        name = path.relative_to(folder).as_posix()
        return hashlib.sha256(os.fsencode(name)).digest()

    paths = sorted(paths, key=place)[:count]
    labels = [names.index(path.relative_to(folder).parts[0]) for path in paths]
    images = [_read(path, resize) for path in paths]
    return Pictures(
        _stacked(images, [str(path) for path in paths]),
        np.array(labels, np.int32),
        tuple(names),
    )


def load_npz(path: Path, split: str) -> Pictures:
    """Reads `images` and `labels` of `split`.npz in a folder, or of one file.

    Images are uint8 ``[n, h, w, c]``, or ``[n, h, w]`` where they are grey. The classes
    are called by their numbers, or as `class_names` of the file says.

    Raises:
        UserError: if the arrays are not like this.
    """
    if path.is_dir():
        files = [path / f"{name}.npz" for name in (split, "train", "test")]
    elif split == "train":
        raise UserError(
            f"{path} is one file, for testing; training wants a folder with train.npz "
            "and test.npz as --data_dir"
        )
    else:
        files = [path]
    images, labels, names = _read_npz(files[0])
    if not names:
        # Each split may lack the last classes.
        others = [_read_npz(file)[1] for file in files[1:] if file.is_file()]
        classes = 1 + max(int(each.max()) for each in (labels, *others))
        names = tuple(str(label) for label in range(classes))
    if labels.max() >= len(names):
        raise UserError(f"{files[0]}: label {labels.max()} has no class name")
    return Pictures(images, labels, names)


def load_prepared(
    name: str, split: str, data_dir: str | None, count: int | None, resize: int | None
) -> Pictures:
    """Reads a data set that tensorflow-datasets has prepared as array_record files.

    Raises:
        UserError: if there is none of this name, or it has no images with labels.
    """
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder(name, data_dir=data_dir)
        splits, names = dict(builder.info.splits), builder.info.features["label"].names
        ready = builder.info.file_format.value == "array_record"
    except Exception as error:  # No package, an unknown name, no folder.
        raise UserError(
            f"no data set tfds:{name} with images and labels: {one_line(error)}"
        ) from error
    if not (splits and ready):
        raise UserError(
            f"tfds:{name} is not prepared as array_record files in {builder.data_dir}; "
            f"do so with `tfds build {name} --file_format=array_record`"
        )
    if split not in splits:
        raise UserError(
            f"tfds:{name} has no split {split!r}; it has {', '.join(splits)}"
        )
    source = tfds.data_source(name, split=split, data_dir=data_dir, download=False)
    examples = [source[i] for i in range(min(len(source), count or len(source)))]
    images = [np.asarray(example["image"]) for example in examples]
    if resize is not None:
        images = [_resized_array(image, resize) for image in images]
    places = [f"image {i} of tfds:{name}" for i in range(len(images))]
    labels = np.array([example["label"] for example in examples], np.int32)
    return Pictures(_stacked(images, places), labels, tuple(names))


def resized(image: Image.Image, side: int) -> Image.Image:
    """The central square, resized to `side` pixels: Pillow's bicubic, antialiased."""
    return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)


def _resized_array(image: np.ndarray, side: int) -> np.ndarray:
    grey = image.shape[-1] == 1
    found = np.asarray(resized(Image.fromarray(image[..., 0] if grey else image), side))
    return found[..., None] if grey else found


def _read(path: Path, resize: int | None) -> np.ndarray:
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(upright if resize is None else resized(upright, resize))
    except Exception as error:  # Damaged bytes raise anything at all.
        raise UserError(f"cannot read {path}: {one_line(error)}") from error


def _stacked(images: list[np.ndarray], names: list[str]) -> np.ndarray:
    shape = images[0].shape
    for image, name in zip(images, names, strict=True):
        if image.shape != shape:
            height, width = image.shape[:2]
            raise UserError(
                f"{name} has {height} x {width} pixels, and {names[0]} {shape[0]} x "
                f"{shape[1]}; give --resize=H, which makes all H x H"
            )
    return np.stack(images)


def _read_npz(file: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
            images, labels = arrays["images"], arrays["labels"]
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except Exception as error:  # Damaged bytes raise anything at all.
        raise UserError(
            f"{file} is no .npz with images and labels: {one_line(error)}"
        ) from error
    if images.ndim == 3:
        images = images[..., None]
    found = f"{images.dtype.name} {list(images.shape)}"
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(f"{file}: images must be uint8 [n, h, w, c], got {found}")
    if images.shape[-1] not in (1, 3):
        hint = "; transpose NCHW to NHWC" if images.shape[1] in (1, 3) else ""
        raise UserError(f"{file}: images must have 1 or 3 channels, got {found}{hint}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        hint = "; for one-hot labels store labels.argmax(1)" if labels.ndim == 2 else ""
        raise UserError(
            f"{file}: labels must be integers [n], got {labels.dtype.name} "
            f"{list(labels.shape)}{hint}"
        )
    if len(labels) != len(images) or labels.min() < 0:
        raise UserError(f"{file}: {len(images)} images need as many labels, from 0 on")
    names = tuple(str(name) for name in arrays.get("class_names", ()))
    return images, labels.astype(np.int32), names
