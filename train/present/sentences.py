"""What stands below a quoted table: what was measured, on what, and where it is."""

from collections.abc import Mapping
from typing import Any


def provenance_line(record: Mapping[str, Any]) -> str:
    """Where a result comes from, in one line."""
    facts = record["provenance"]
    return f"{facts['hardware']}, jax {facts['versions']['jax']}, {facts['date']}"


def dataset_name(record: Mapping[str, Any]) -> str:
    """What the images of a result are called in a text."""
    name = record["dataset"]["name"]
    return {"cifar10": "CIFAR-10, JPEG export"}.get(name, f"`{name}`")


def link(file: str, up: str = "../") -> str:
    """A link to a result file, from docs/ or with ``up=""`` from the README."""
    return f"[results/{file}]({up}results/{file})"


def made_by(record: Mapping[str, Any], file: str, up: str = "../") -> str:
    """Where a result comes from, and its file."""
    return f"{provenance_line(record)}. {link(file, up)}"
