"""Result files, and which runs may resume or replace them.

What a file holds may have taken hours. So a run with other settings never overwrites
it; it names the setting that differs and asks for another file.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from train.records import per_image, provenance
from train.utils.errors import UserError
from train.utils.files import write_whole

_WAY_OUT = "give another --out or delete the file"
# Flags that say where things are, and not what is measured.
_PLACES = ("--out", "--data_dir", "--compilation_cache")


def record_of(path: pathlib.Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The record that an earlier run with the same inputs left; {} without one.

    Args:
        path: a JSON file, there or not.
        inputs: plain values as JSON has them, all of which the record must have.

    Raises:
        UserError: if the record has other inputs, naming the first that differs, or the
            file is no record.
    """
    found = _read(path)
    if found is None:
        return {}
    if not inputs.keys() <= found.keys():
        raise UserError(f"{path} is no result of this program; {_WAY_OUT}")
    require_same(path, {name: found[name] for name in inputs}, inputs)
    return per_image.put_back(path, found)


def read_record(path: pathlib.Path) -> dict[str, Any]:
    """The record in a file, with what it says of each image.

    Raises:
        UserError: if it cannot be read, or is something else.
    """
    found = _read(path)
    if found is None:
        raise UserError(f"{path} is missing")
    return per_image.put_back(path, found)


def write_record(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes a record as JSON, and what it says of each image beside it.

    Each file is whole or as it was before; between the two the older record still finds
    its arrays.

    Raises:
        UserError: if it cannot be written.
    """
    record, arrays = per_image.taken_out(values)
    try:
        before = _read(path) or {}
    except UserError:
        before = {}
    try:
        per_image.write(path, dict(arrays), before)
        write_whole(path, as_text(record).encode())
        per_image.write(path, arrays, {})
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def as_text(record: Any) -> str:
    """JSON in which each entry of a list of records is a line."""
    return _lines(record, "") + "\n"


def _lines(value: Any, indent: str) -> str:
    inner = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | list) or not any(
        isinstance(x, Mapping | list) for x in inner
    ):
        return json.dumps(value)
    if isinstance(value, Mapping):
        rows = [f"{json.dumps(k)}: {_lines(v, indent + ' ')}" for k, v in value.items()]
        brackets = "{}"
    elif any(isinstance(x, Mapping) for x in value):
        rows, brackets = [json.dumps(x) for x in value], "[]"
    else:
        return json.dumps(value)
    between = f",\n{indent} "
    return f"{brackets[0]}\n{indent} {between.join(rows)}\n{indent}{brackets[1]}"


def require_same(
    path: pathlib.Path, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    """Refuses settings that are not those a file was measured with.

    Raises:
        UserError: naming the first that differs.
    """
    differing = _difference(found, wanted)
    if differing is None:
        return
    name, values = differing[0], [json.dumps(value) for value in differing[1:]]
    what = f"another {name}"
    if max(map(len, values)) <= 40:
        what = f"{name} {values[0]}, not {values[1]}"
    raise UserError(f"{path} was measured with {what}; {_WAY_OUT}")


def require_replaceable(path: pathlib.Path, section: str | None = None) -> None:
    """Refuses a file that another command than this one made.

    For results measured in one go: the same command may replace them, another may not.

    Args:
        path: a JSON file, there or not.
        section: the part of the file that is to be replaced; None is all of it.

    Raises:
        UserError: saying what made the file.
    """
    found = _read(path)
    if found is None:
        return
    for record in [found] if section is None else found.values():
        if not isinstance(record, dict) or not _command_of(record):
            raise UserError(f"{path} is no file of results like this; {_WAY_OUT}")
    if section is not None:
        found = found.get(section)
    if found and _flags_of(_command_of(found)) != _flags_of(provenance.command()):
        raise UserError(
            f"{path} was made by `{_command_of(found)}`, with other settings; "
            f"{_WAY_OUT}"
        )


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give another --out"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON file of results; {_WAY_OUT}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON file of results; {_WAY_OUT}")
    return found


def _difference(found: Any, wanted: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The first setting that differs: its name with those above it, and both values."""
    if not (isinstance(found, Mapping) and isinstance(wanted, Mapping)):
        return None if found == wanted else (name, found, wanted)
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        below = f"{name}.{key}" if name else key
        differing = _difference(found.get(key), wanted.get(key), below)
        if differing:
            return differing
    return None


def _command_of(record: Mapping[str, Any]) -> str:
    made_by = record.get("provenance")
    command = made_by.get("command") if isinstance(made_by, dict) else None
    return command if isinstance(command, str) else ""


def _flags_of(command: str) -> list[str]:
    """A program and its flags, in any order."""
    return sorted(x for x in command.split() if x.partition("=")[0] not in _PLACES)
