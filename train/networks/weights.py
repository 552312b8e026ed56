"""Weights in files that hold arrays and nothing else: `.npz` and `.safetensors`."""

import hashlib
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from train.utils.errors import UserError
from train.utils.optional import require

SUFFIXES = (".npz", ".safetensors")


class Weights(NamedTuple):
    """What a file holds.

    Attributes:
        arrays: by their names.
        metadata: text by name, of a `.safetensors`; {} for an `.npz`.
        sha256: the checksum of the file.
    """

    arrays: dict[str, np.ndarray]
    metadata: Mapping[str, str]
    sha256: str


def read_weights(path: str | os.PathLike[str], said: str | None = None) -> Weights:
    """Reads a file of weights; executes nothing that is in it.

    Args:
        path: the file.
        said: the flag that names it, for messages; by default --weights.

    Raises:
        UserError: if it cannot be read, or is neither kind of file.
    """
    path, said = pathlib.Path(path), said or f"--weights={path}"
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"{said} must end in {' or '.join(SUFFIXES)}: other files, such "
            "as PyTorch's, are pickles, which may run code; save the arrays with "
            "numpy.savez"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {said}: {error.strerror}") from error
    read = _read_npz if suffix == ".npz" else _read_safetensors
    try:
        arrays, metadata = read(data)
    except UserError:
        raise
    except Exception as error:  # Damaged bytes raise anything at all.
        reason = str(error).partition("\n")[0]
        if "allow_pickle" in reason:
            reason = "it holds Python objects, which are pickles and may run code"
        raise UserError(f"{said} is no {suffix} file: {reason}") from error
    if not arrays:
        raise UserError(f"{said} holds no arrays")
    return Weights(arrays, metadata, hashlib.sha256(data).hexdigest())


def _read_npz(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise ValueError("not a zip archive of arrays")
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}, {}


def _read_safetensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    arrays = require("safetensors.numpy").load(data)
    return arrays, _metadata(data)


def _metadata(data: bytes) -> dict[str, str]:
    """The text of the header: its length in eight bytes, then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header.get("__metadata__", {})
