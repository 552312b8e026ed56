"""What the quoted tables share."""

from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    """Rows as a Markdown table; columns from `numbers_from` on are set right."""
    head, *body = rows
    rule = ["---" if i < numbers_from else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def provenance_line(record: Mapping[str, Any]) -> str:
    """Where a result comes from, in one line."""
    facts = record["provenance"]
    return f"{facts['hardware']}, jax {facts['versions']['jax']}, {facts['date']}"


def dataset_name(record: Mapping[str, Any]) -> str:
    """What the images of a result are called in a text."""
    name = record["dataset"]["name"]
    return {"cifar10": "CIFAR-10, JPEG export"}.get(name, f"`{name}`")
