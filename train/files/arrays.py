"""Purifies arrays of images, from ``.npy`` and ``.npz`` files or a data set.

Beside the result, ``<output>.jsonl`` says what it was made from (first line) and how
far each image moved. Until then results lie in ``<output>.partial/``, each with its
checksum, so that an interrupted run goes on with the next image.
"""

import collections
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from splic_jax.layout.batches import NotFiniteError
from train.data.loading import Dataset
from train.files.pieces import Purifier, Tally, comparable, require_same_masks
from train.utils import files
from train.utils.errors import UserError
from train.utils.files import printable
from train.utils.progress import Progress

SUFFIXES = (".npy", ".npz")
_CHECKED_AT_ONCE = 256


class Arrays(NamedTuple):
    """Arrays to purify.

    Attributes:
        name: what to call them.
        arrays: by name.
        sha256: of their content.
        bare: it is one array, of a ``.npy`` file, and called "".
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    sha256: str
    bare: bool = False


@contextlib.contextmanager
def open_file(path: pathlib.Path) -> Iterator[Arrays]:
    """Opens a ``.npy`` or ``.npz`` file; nothing in it is ever unpickled.

    Raises:
        UserError: if it is not such a file.
    """
    bare = path.suffix.lower() == ".npy"
    with contextlib.ExitStack() as stack:
        with _reading(path):
            mapped = "r" if bare else None
            arrays = np.load(path, mmap_mode=mapped, allow_pickle=False)
            if not isinstance(arrays, np.ndarray):
                stack.enter_context(arrays)
            if isinstance(arrays, np.ndarray) != bare:
                raise ValueError(f"its content is not that of a {path.suffix} file")
            # Of two members of one name NumPy reads the last.
            names = [] if isinstance(arrays, np.ndarray) else arrays.files
            for name, count in collections.Counter(names).items():
                if count > 1:
                    raise ValueError(f"it has {count} arrays called {name}")
            digest = files.digest_of(path)
        yield Arrays(str(path), {"": arrays} if bare else arrays, digest, bare)


def from_dataset(dataset: Dataset) -> Arrays:
    """Returns a data set's ``images`` and ``labels``, and what other labels it has."""
    arrays = {"images": dataset.images, "labels": dataset.labels}
    if dataset.texture_labels is not None:
        arrays["texture_labels"] = dataset.texture_labels
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array))
    return Arrays(dataset.name, arrays, digest.hexdigest())


def purify_arrays(
    source: Arrays,
    target: pathlib.Path,
    purifier: Purifier,
    *,
    overwrite: bool = False,
    progress: Progress,
) -> Tally:
    """Purifies every array of images and copies the others; image i has mask i.

    Arrays of images are ``[n, h, w, c]`` with 1 to 4 channels, uint8 or floats in
    [0, 1]; outside an ``.npz`` also ``[h, w, c]``.

    Args:
        source: the arrays.
        target: the ``.npy`` or ``.npz`` file to write.
        purifier: with which settings.
        overwrite: replace a target that was not made from these arrays with these
            settings.
        progress: shows the progress.

    Raises:
        UserError: for arrays that cannot be purified, or a target that is in the way
            or cannot be written.
    """
    head = {"input_sha256": source.sha256, **purifier.description()}
    with files.storage_errors(target):
        tally = _read_finished(target, head)
        if tally is not None:
            progress.line(printable(f"{target} is done already"))
            return tally
        if os.path.lexists(target) and (not overwrite or target.is_dir()):
            raise UserError(
                f"{target} would be overwritten, not made from {source.name} with "
                "these settings; give --overwrite or another --output"
            )
        names = _names_of_images(source, progress)
        partial = target.with_name(f"{target.name}.partial")
        tally = Tally()
        entries = _purify_into(partial, source, names, head, purifier, tally, progress)
        if source.bare:
            made = partial / "0.npy"
        else:
            made = partial / "made.npz"
            _write_npz(
                made, source, {n: partial / f"{i}.npy" for i, n in enumerate(names)}
            )
        head["output_sha256"] = files.digest_of(made)
        lines = "".join(json.dumps(entry) + "\n" for entry in [head, *entries])
        files.write_whole(_record_path(target), lines.encode())
        os.replace(made, target)
        shutil.rmtree(partial)
    return tally


def _record_path(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(f"{target.name}.jsonl")


def _read_finished(target: pathlib.Path, head: dict[str, Any]) -> Tally | None:
    """Returns the tally of a finished target; None if it is not made like this."""
    entries = _read_lines(_record_path(target))
    if not entries or not target.is_file():
        return None
    head = {**head, "output_sha256": files.digest_of(target)}
    if comparable(entries[0]) != comparable(head):
        return None
    tally = Tally(before=len(entries) - 1)
    for entry in entries[1:]:
        tally.add_quality(entry)
    return tally


def _read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    entries = []
    for line in text.splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break  # cut off when the run was stopped
    return entries


def _names_of_images(source: Arrays, progress: Progress) -> list[str]:
    if source.bare:
        array = source.arrays[""]
        batch = array[None] if array.ndim == 3 else array
        if not _looks_like_images(batch):
            raise UserError(
                f"{source.name} has shape {array.shape} and type {array.dtype}; "
                "needed is [n, h, w, c] or [h, w, c] with 1 to 4 channels, uint8 or "
                "floats in [0, 1]"
            )
        _check_range(source.name, "", batch)
        return [""]
    names = []
    for name in source.arrays:
        with _reading(source.name):
            array = source.arrays[name]
        if _looks_like_images(array):
            _check_range(source.name, name, array)
            names.append(name)
    if not names:
        raise UserError(
            f"{source.name} has no array [n, h, w, c] with 1 to 4 channels, uint8 or "
            f"floats in [0, 1]; it has {', '.join(source.arrays) or 'none at all'}"
        )
    copied = [name for name in source.arrays if name not in names]
    copied = f"; {', '.join(copied)} copied as is" if copied else ""
    progress.line(printable(f"{source.name}: purifying {', '.join(names)}{copied}"))
    return names


def _looks_like_images(array: np.ndarray | bytes) -> bool:
    if isinstance(array, bytes):  # of a member that is no array
        return False
    if array.ndim != 4 or 0 in array.shape[1:] or array.shape[-1] > 4:
        return False
    return array.dtype == np.uint8 or (
        array.dtype.kind == "f" and array.dtype.itemsize <= 8
    )


def _check_range(source: str, name: str, images: np.ndarray) -> None:
    if images.dtype == np.uint8:
        return
    for first in range(0, len(images), _CHECKED_AT_ONCE):
        piece = images[first : first + _CHECKED_AT_ONCE]
        bad = np.argwhere(~((piece >= 0) & (piece <= 1)))  # NaN compares false
        if len(bad):
            where = [int(i) for i in bad[0]]
            value = piece[tuple(where)]
            where[0] += first
            raise UserError(
                f"{source}: {name or 'image'}{where} is {value}, and floats must be in "
                "[0, 1]; rescale them, or store uint8"
            )


def _purify_into(
    partial: pathlib.Path,
    source: Arrays,
    names: list[str],
    head: dict[str, Any],
    purifier: Purifier,
    tally: Tally,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Fills ``partial/<number>.npy`` for each array; returns a line for each image."""
    record = partial / "record.jsonl"
    lines = _read_lines(record)
    if not lines and partial.exists():
        raise UserError(f"{partial} is in the way and was not made here; remove it")
    if [comparable(line) for line in lines[:1]] != [comparable(head)]:
        if lines:
            require_same_masks(partial, lines[0], head)
            progress.line(printable(f"{partial} had other settings: starting over"))
        shutil.rmtree(partial, ignore_errors=True)
        files.write_whole(record, (json.dumps(head) + "\n").encode())
        lines = [head]
    else:  # without what was cut off
        text = "".join(json.dumps(line) + "\n" for line in lines)
        files.write_whole(record, text.encode())
    recorded = {(line["array"], line["index"]): line for line in lines[1:]}

    entries = []
    for number, name in enumerate(names):
        with _reading(source.name):
            images = source.arrays[name]
        result = _open_result(partial / f"{number}.npy", images)
        if images.ndim == 3:
            images, result = images[None], result[None]
        done = {}
        for index in range(len(images)):
            entry = recorded.get((name, index))
            if entry and entry["sha256"] == _digest(result[index]):
                done[index] = entry
                tally.add_quality(entry)
        tally.before += len(done)
        if done:
            progress.line(f"{len(done)} of {len(images)} images are done already")
        missing = [index for index in range(len(images)) if index not in done]
        size = purifier.piece_size(images.shape[1:])
        start = time.monotonic()
        with (
            open(record, "a", encoding="utf-8") as file,
            progress.stage(
                "purifying", len(images), done=len(done), lines=False
            ) as advance,
        ):
            for first in range(0, len(missing), size):
                indices = np.array(missing[first : first + size])
                try:
                    purified = purifier(images[indices], indices)
                except NotFiniteError as error:
                    shutil.rmtree(partial, ignore_errors=True)
                    where = f"{name or 'image'}[{indices[error.images[0]]}]"
                    raise UserError(
                        f"{source.name}: {where} is not finite once purified; choose "
                        "milder settings"
                    ) from error
                except (ValueError, jax.errors.JaxRuntimeError) as error:
                    shutil.rmtree(partial, ignore_errors=True)
                    reason = str(error).splitlines()[0]
                    raise UserError(f"cannot purify {source.name}: {reason}") from error
                result[indices] = purified.images
                for index, image, psnr, ssim in zip(indices, *purified, strict=True):
                    done[int(index)] = entry = {
                        "array": name,
                        "index": int(index),
                        "shape": image.shape,
                        "psnr": psnr,
                        "ssim": ssim,
                        "sha256": _digest(image),
                    }
                    file.write(json.dumps(entry) + "\n")
                    tally.add_quality(entry)
                file.flush()
                tally.done += len(indices)
                advance(len(indices))
        tally.seconds += time.monotonic() - start
        result.flush()
        entries += [done[index] for index in range(len(images))]
    return entries


def _open_result(path: pathlib.Path, like: np.ndarray) -> np.memmap:
    """Opens the array of the results, with those of an earlier run if there are any."""
    with contextlib.suppress(OSError, ValueError):
        result = np.lib.format.open_memmap(path, mode="r+")
        if result.shape == like.shape and result.dtype == like.dtype:
            return result
    return np.lib.format.open_memmap(
        path, mode="w+", dtype=like.dtype, shape=like.shape
    )


def _write_npz(
    path: pathlib.Path, source: Arrays, purified: Mapping[str, pathlib.Path]
) -> None:
    # One array in memory at a time, whatever its name (np.savez takes no "file").
    with zipfile.ZipFile(path, "w") as archive:
        for name in source.arrays:
            if name in purified:
                array = np.load(purified[name], mmap_mode="r", allow_pickle=False)
            else:
                with _reading(source.name):
                    array = source.arrays[name]
            if isinstance(array, bytes):
                archive.writestr(name, array)
                continue
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image)).hexdigest()


@contextlib.contextmanager
def _reading(path: pathlib.Path | str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read {path}: {reason}") from error
