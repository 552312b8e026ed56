"""The JSON file of speeds, of which several benchmarks write one section each."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from train.records import provenance
from train.records.storing import require_replaceable, write_record


def update(path: pathlib.Path, section: str, record: Mapping[str, Any]) -> None:
    """Replaces one section of a JSON file, and adds its provenance.

    Args:
        path: the file; created if missing.
        section: name of the benchmark.
        record: plain values for JSON.

    Raises:
        UserError: if the file is not such a file, its section was measured with other
            flags, or it cannot be written.
    """
    require_replaceable(path, section)
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    record = {"provenance": provenance.provenance(), **record}
    write_record(path, {**found, section: record})
