"""Values for each image, beside a record: `per_image/NAME.npz` for `NAME.json`.

A field of the record that ends in `_by_image` holds the name of an array. Names are
checksums of contents, so a record never gets the arrays of another one.

    "correct_by_image": "0101"      bool [n]
    "psnr_db_by_image": [20.5, null]   float64 [n], NaN for null
"""

import hashlib
import io
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from train.utils.errors import UserError
from train.utils.files import write_whole

Arrays = dict[str, Shaped[np.ndarray, " n"]]
_SUFFIX, _NAME = "_by_image", "array "


def path_beside(path: pathlib.Path) -> pathlib.Path:
    """Where the arrays of a record are."""
    return path.parent / "per_image" / f"{path.stem}.npz"


def taken_out(record: Mapping[str, Any]) -> tuple[dict[str, Any], Arrays]:
    """The record with names in place of values, and the arrays of these names."""
    arrays: Arrays = {}

    def name_of(value: Any) -> str:
        if isinstance(value, str):
            if not set(value) <= {"0", "1"}:
                raise ValueError(f"answers must be 0 or 1, got {value!r}")
            array = np.array([answer == "1" for answer in value])
        else:
            array = np.array([np.nan if x is None else x for x in value], np.float64)
        name = hashlib.sha256(array.dtype.str.encode() + array.tobytes()).hexdigest()
        name = f"{_NAME}{name[:16]}"
        arrays[name] = array
        return name

    return _changed(record, name_of), arrays


def put_back(path: pathlib.Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `taken_out`, with the arrays beside a record's file.

    Raises:
        UserError: if one is missing.
    """
    arrays = _read(path_beside(path))

    def value_of(found: Any) -> Any:
        if not _is_name(found):  # an older record has the values themselves
            return found
        if found not in arrays:
            raise UserError(
                f"{path_beside(path)} does not belong to {path}; delete both to start "
                "over"
            )
        array = arrays[found]
        if array.dtype == bool:
            return "".join("01"[answer] for answer in array.tolist())
        return [None if np.isnan(x) else x for x in array.tolist()]

    return _changed(record, value_of)


def write(path: pathlib.Path, arrays: Arrays, still: Mapping[str, Any]) -> None:
    """Writes the arrays of a record.

    Args:
        path: of the record.
        arrays: by name.
        still: the record that is there until it is replaced; it keeps its arrays.
    """
    kept: set[str] = set()
    _changed(still, lambda name: kept.add(name) if _is_name(name) else None)
    there = _read(path_beside(path)) if kept else {}
    arrays = {name: there[name] for name in kept & there.keys()} | arrays
    if not arrays:
        path_beside(path).unlink(missing_ok=True)
        return
    file = io.BytesIO()
    np.savez_compressed(file, **dict(sorted(arrays.items())))
    write_whole(path_beside(path), file.getvalue())


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_NAME)


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy with other values in the fields of images."""
    if isinstance(value, Mapping):
        return {
            name: change(x) if name.endswith(_SUFFIX) else _changed(x, change)
            for name, x in value.items()
        }
    return [_changed(x, change) for x in value] if isinstance(value, list) else value


def _read(path: pathlib.Path) -> Arrays:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged; make it again") from error
