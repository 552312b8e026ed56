"""What tests of the binaries share."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema
import pytest

SCHEMA = (
    pathlib.Path(__file__).resolve().parents[2] / "train" / "records" / "schema.json"
)


@pytest.fixture(scope="session")
def schema_errors() -> Callable[[Mapping[str, Any]], list[str]]:
    """Lists what train/records/schema.json finds wrong in a result file."""
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    def errors(record: Mapping[str, Any]) -> list[str]:
        # As it comes from JSON: lists, and no tuples.
        found = validator.iter_errors(json.loads(json.dumps(record)))
        found = [jsonschema.exceptions.best_match([error]) for error in found]
        return [f"{error.json_path}: {error.message[:300]}" for error in found]

    return errors
