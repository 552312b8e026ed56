"""Transformed ("purified") training images, computed once and kept on disk.

A finished set is ``<key>.npy`` beside ``<key>.json``, which says what the key was made
from and holds the checksum of the images. Until then its pieces lie in
``<key>.partial/``, so that an interrupted run goes on with the next piece.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

import splic_jax
from splic_jax.keys import generator
from splic_jax.layout.batches import NotFiniteError
from splic_jax.purification import default_chunk_size
from splic_jax.transforms import TransformConfig, as_dict
from train.data.loading import Dataset
from train.utils.devices import spread
from train.utils.errors import UserError
from train.utils.files import write_whole, written_whole
from train.utils.progress import Progress

# Raise it when the files' layout, or how keys are derived from the seed, changes.
FORMAT = 1
PIECE_IMAGES = 256


def purified_dataset(
    dataset: Dataset,
    config: TransformConfig,
    *,
    masks_per_image: int = 1,
    seed: int = 0,
    cache_dir: str | os.PathLike[str],
    progress: Progress | None = None,
) -> UInt8[np.ndarray, "masks n h w c"]:
    """Purifies the images of a data set, or reads what an earlier call stored.

    Mask m of image i comes from ``fold_in(fold_in(key(seed), m), i)``, so it does not
    change with `masks_per_image` or the number of images.

    Args:
        dataset: uint8 images ``[n, h, w, c]``.
        config: the settings of the transform, of any method in `METHODS` that keeps
            the images' shape; fitted, where it needs that.
        masks_per_image: how many times each image is purified.
        seed: of the masks.
        cache_dir: folder for the results; made where it is missing.
        progress: shows the progress; None shows nothing.

    Returns:
        The purified images, uint8 ``[masks, n, h, w, c]``.

    Raises:
        UserError: if `cache_dir` cannot be written, or the images cannot be purified
            with `config`.
    """
    progress = progress or Progress(quiet=True)
    inputs = _inputs(dataset.images, config, masks_per_image, seed)
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
    shape = (masks_per_image, *dataset.images.shape)
    with _storage_errors(pathlib.Path(cache_dir)) as folder:
        final, partial = folder / f"{name}.npy", folder / f"{name}.partial"
        images = _read_final(final, shape)
        if images is None:
            if final.exists():
                progress.line(f"{final} is damaged and is computed again")
            images = _compute(dataset.images, config, shape, seed, partial, progress)
            _write_final(final, images, inputs)
        shutil.rmtree(partial, ignore_errors=True)
    return images


def _inputs(
    images: np.ndarray, config: TransformConfig, masks_per_image: int, seed: int
) -> dict[str, Any]:
    """Everything the result depends on, down to the rounding."""
    return {
        "format": FORMAT,
        "images": _digest(images),
        "shape": images.shape,
        "config": as_dict(config),
        "fitted": [_digest(np.asarray(array)) for array in jax.tree.leaves(config)],
        "masks_per_image": masks_per_image,
        "seed": seed,
        "splic_jax": splic_jax.__version__,
        "splic_jax_source": _source_digest(),
        "jax": jax.__version__,
        "platform": jax.default_backend(),
        "masks": generator(jax.random.key(seed)),
    }


def _source_digest() -> str:
    # The version number does not change while someone works on the library.
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(splic_jax.__file__).parent.glob("**/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _compute(
    images: np.ndarray,
    config: TransformConfig,
    shape: tuple[int, ...],
    seed: int,
    partial: pathlib.Path,
    progress: Progress,
) -> np.ndarray:
    result = np.empty(shape, np.uint8)
    # A piece is a whole number of purify's own chunks, so that none is padded.
    chunk = 1
    apply = functools.partial(splic_jax.transform, config=config)
    if isinstance(config, splic_jax.SPLICConfig):
        chunk = default_chunk_size(images.shape[1:], jax.default_backend(), config)
        apply = functools.partial(splic_jax.purify, config=config, devices=spread())
    size = chunk * -(-PIECE_IMAGES // chunk)
    missing = []
    for mask in range(shape[0]):
        for start in range(0, len(images), size):
            target = result[mask, start : start + size]
            path = partial / f"{mask}-{start}-{start + len(target)}.piece"
            if not _read_piece(path, target):
                missing.append((mask, start, path, target))

    total = shape[0] * len(images)
    done = total - sum(len(target) for *_, target in missing)
    if done:
        progress.line(f"purifying: {done} of {total} images are done from before")
    with progress.stage("purifying", total, done=done) as advance:
        for mask, start, path, target in missing:
            key = jax.random.fold_in(jax.random.key(seed), mask)
            piece = images[start : start + len(target)]
            try:
                target[:] = apply(piece, key, first_index=start, check_finite=True)
            except NotFiniteError as error:
                raise UserError(
                    f"image {start + error.images[0]} is not finite once transformed; "
                    "choose milder settings of the defense"
                ) from error
            except ValueError as error:
                raise UserError(f"cannot purify the images: {error}") from error
            write_whole(path, hashlib.sha256(target).digest() + target.tobytes())
            advance(len(target))
    return result


def _read_piece(path: pathlib.Path, target: np.ndarray) -> bool:
    """Fills `target` from an intact piece; returns whether there was one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    checksum, values = data[:32], data[32:]
    if len(values) != target.nbytes or hashlib.sha256(values).digest() != checksum:
        return False
    target[:] = np.frombuffer(values, np.uint8).reshape(target.shape)
    return True


def _read_final(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        images = np.load(path, allow_pickle=False)
        recorded = json.loads(path.with_suffix(".json").read_text())["sha256"]
    except (FileNotFoundError, ValueError, EOFError, KeyError, TypeError):
        return None
    if images.shape != shape or images.dtype != np.uint8:
        return None
    return images if _digest(images) == recorded else None


def _write_final(path: pathlib.Path, images: np.ndarray, inputs: dict) -> None:
    # The description first: images without one do not count as finished.
    text = json.dumps({**inputs, "sha256": _digest(images)}, indent=2)
    write_whole(path.with_suffix(".json"), text.encode())
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.save(file, images)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


@contextlib.contextmanager
def _storage_errors(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        raise UserError(
            f"cannot keep purified images in {folder}: {error.strerror or error}; "
            "choose another --cache_dir"
        ) from error
