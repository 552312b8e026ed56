"""Purifies picture files, and records each in the JSON lines of ``purify.jsonl``.

A line says from which bytes and with which settings an output was made. It is written
before the output is put in place, so every output has a line. A line counts only while
its output matches it.
"""

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from splic_jax.layout.batches import NotFiniteError
from train.files import codecs
from train.files.codecs import Picture, PictureError
from train.files.pieces import (
    Purified,
    Purifier,
    Tally,
    comparable,
    require_same_masks,
)
from train.utils import files
from train.utils.errors import UserError
from train.utils.files import printable
from train.utils.progress import Progress

# From more shapes than this, say how much there is to compile.
MANY_SHAPES = 8


class Source(NamedTuple):
    """A picture to purify.

    Attributes:
        path: where it is.
        name: its path below the folder given, which decides its mask: it stays the
            same whatever lies beside it.
        target: where the result goes.
    """

    path: pathlib.Path
    name: str
    target: pathlib.Path

    @property
    def index(self) -> int:
        """The index of the mask, in [0, 2^31)."""
        digest = hashlib.sha256(os.fsencode(self.name)).digest()
        return int.from_bytes(digest[:4]) >> 1


class _Pending(NamedTuple):
    source: Source
    digest: str


class _Record:
    """The file ``purify.jsonl``: for each output, the last line about it."""

    def __init__(self, path: pathlib.Path, settings: dict[str, Any]):
        self._path = path
        self._settings = settings
        text = json.dumps(comparable(settings), sort_keys=True).encode()
        self._key = hashlib.sha256(text).hexdigest()[:16]
        self._entries = {}
        self._has_settings = False
        self._separator = ""
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        self._separator = "" if text.endswith("\n") else "\n"
        others: list[dict[str, Any]] = []
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                if "path" in entry:
                    self._entries[entry["path"]] = entry
                elif entry.get("settings") == self._key:
                    self._has_settings = True
                elif "seed" in entry["values"]:
                    others.append(entry["values"])
            except (ValueError, TypeError, AttributeError):
                continue  # cut off when a run was stopped
        for other in others:
            require_same_masks(path.parent, other, settings)

    def find(self, source: Source, digest: str) -> dict[str, Any] | None:
        """Returns the line about the target, if the target exists and matches it."""
        entry = self._entries.get(self._name(source), {})
        if entry.get("settings") != self._key or entry.get("input_sha256") != digest:
            return None
        if entry.get("output_sha256") != files.digest_of(source.target):
            return None
        return entry

    def add(self, source: Source, **values: Any) -> None:
        lines = [{"path": self._name(source), "settings": self._key, **values}]
        if not self._has_settings:
            lines.insert(0, {"settings": self._key, "values": self._settings})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(self._separator + text)
        self._has_settings, self._separator = True, ""

    def _name(self, source: Source) -> str:
        return source.target.relative_to(self._path.parent).as_posix()


def purify_pictures(
    sources: Sequence[Source],
    folder: pathlib.Path,
    purifier: Purifier,
    *,
    overwrite: bool = False,
    progress: Progress,
) -> Tally:
    """Purifies pictures, in pieces of one shape; names those that fail, and goes on.

    Args:
        sources: the pictures, their targets below `folder`.
        folder: where ``purify.jsonl`` is.
        purifier: with which settings.
        overwrite: replace what is there and was not made by these settings from these
            pictures.
        progress: shows the progress.

    Raises:
        UserError: if something is in the way of a result, before anything is done, or
            a result cannot be written.
    """
    tally = Tally()

    def fail(source: Source, reason: object) -> None:
        tally.failed += 1
        progress.line(printable(f"skipped {source.path}: {reason}"))

    with files.storage_errors(folder):
        record = _Record(folder / "purify.jsonl", purifier.description())
        groups = _group(sources, record, overwrite, tally, fail, progress)
        if tally.before:
            progress.line(f"{tally.before} of {len(sources)} pictures are done already")
        if len(groups) > MANY_SHAPES:
            progress.line(
                f"{len(groups)} different sizes: each is compiled for once, which can "
                "take longer than its pictures; bring them to fewer sizes if it does"
            )
        start = time.monotonic()
        total = sum(len(group) for group in groups.values())
        with progress.stage("purifying", total, lines=False) as advance:
            for shape, group in groups.items():
                size = purifier.piece_size(shape[:3])
                for first in range(0, len(group), size):
                    piece = group[first : first + size]
                    _purify_piece(piece, purifier, record, tally, fail)
                    advance(len(piece))
                if len(groups) > MANY_SHAPES:
                    jax.clear_caches()  # programs of 10 MB each would pile up
        tally.seconds = time.monotonic() - start
    return tally


def _group(
    sources: Sequence[Source],
    record: _Record,
    overwrite: bool,
    tally: Tally,
    fail: Callable[[Source, object], None],
    progress: Progress,
) -> dict[tuple, list[_Pending]]:
    """Returns what is left to do, by height, width, channels and dtype."""
    groups, in_the_way = {}, []
    with progress.stage("reading", len(sources), lines=False) as advance:
        for source in sources:
            advance()
            try:
                data = source.path.read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                if os.path.lexists(source.target):
                    entry = source.target.is_file() and record.find(source, digest)
                    if entry:
                        tally.before += 1
                        tally.add_quality(entry)
                        continue
                    if not overwrite or source.target.is_dir():
                        in_the_way.append(source.target)
                        continue
                picture = codecs.decode(data)
                codecs.check_writable(picture, source.target)
            except PictureError as error:
                fail(source, error)
            except OSError as error:
                fail(source, error.strerror)
            else:
                if picture.note:
                    progress.line(printable(f"{source.path}: {picture.note}"))
                shape = (*picture.pixels.shape, picture.pixels.dtype.name)
                groups.setdefault(shape, []).append(_Pending(source, digest))
    if in_the_way:
        others = f" and {len(in_the_way) - 1} more" if len(in_the_way) > 1 else ""
        raise UserError(
            printable(
                f"{in_the_way[0]}{others} would be overwritten, not made from these "
                "pictures with these settings; give --overwrite or another --output"
            )
        )
    return groups


def _purify_piece(
    piece: Sequence[_Pending],
    purifier: Purifier,
    record: _Record,
    tally: Tally,
    fail: Callable[[Source, object], None],
) -> None:
    ready: list[tuple[_Pending, Picture]] = []
    for pending in piece:
        try:
            data = pending.source.path.read_bytes()
        except OSError as error:
            fail(pending.source, error.strerror)
            continue
        if hashlib.sha256(data).hexdigest() != pending.digest:
            fail(pending.source, "it changed while this ran; run again")
            continue
        ready.append((pending, codecs.decode(data)))
    if not ready:
        return

    def purified_together() -> Purified:
        images = np.stack([picture.pixels for _, picture in ready])
        return purifier(images, np.array([p.source.index for p, _ in ready]))

    try:
        try:
            purified = purified_together()
        except NotFiniteError as error:
            for number in error.images:
                reason = "it is not finite once purified; choose milder settings"
                fail(ready[number][0].source, reason)
            ready = [x for i, x in enumerate(ready) if i not in error.images]
            if not ready:
                return
            purified = purified_together()
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        for pending, _ in ready:
            fail(pending.source, f"cannot be purified: {str(error).splitlines()[0]}")
        return
    for (pending, picture), *result in zip(ready, *purified, strict=True):
        pixels, psnr, ssim = result
        try:
            data = codecs.encode(picture._replace(pixels=pixels), pending.source.target)
        except PictureError as error:
            fail(pending.source, error)
            continue
        entry = {"shape": pixels.shape, "psnr": psnr, "ssim": ssim}
        record.add(
            pending.source,
            **entry,
            input_sha256=pending.digest,
            output_sha256=hashlib.sha256(data).hexdigest(),
        )
        files.write_whole(pending.source.target, data)
        tally.done += 1
        tally.add_quality(entry)
