"""The file of speeds that several benchmarks write, each a section of it."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from train import provenance
from train.errors import UserError
from train.evaluate import write_json


def update(path: pathlib.Path, section: str, record: Mapping[str, Any]) -> None:
    """Replaces one section of a JSON file, and says in it where it comes from.

    Args:
        path: the file; made where it is missing.
        section: name of the benchmark.
        record: plain values for JSON.

    Raises:
        UserError: if the file is not such a file, or cannot be written.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError
    except FileNotFoundError:
        found = {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no JSON file of speeds; choose another") from error
    record = {"provenance": provenance.provenance(), **record}
    write_json(path, {**found, section: record})
