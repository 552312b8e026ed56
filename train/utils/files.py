"""Files that are there whole or not at all."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator

from train.utils.errors import UserError


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a file to write, which becomes `path` at the end and not before.

    Makes its folder where missing; leaves nothing where the writing fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: pathlib.Path, data: bytes) -> None:
    """Writes a file; a reader never sees half of it."""
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


def digest_of(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def storage_errors(output: pathlib.Path) -> Iterator[None]:
    """Turns an error in writing `output` into a `UserError`."""
    try:
        yield
    except OSError as error:
        where = error.filename or output
        raise UserError(
            f"cannot write {where}: {error.strerror or error}; choose another --output"
        ) from error


def printable(name: object) -> str:
    """Returns the name of a file as a terminal can show it."""
    return str(name).encode(errors="replace").decode()
