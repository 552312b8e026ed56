"""What the paper prints in its Tables 1 to 4."""

import json
import pathlib

PRINTED = pathlib.Path(__file__).with_name("printed.json")
# What the paper calls a data set; it has no others.
DATASETS = {"cifar10": "CIFAR-10", "svhn_cropped": "SVHN"}


def printed_values(table: int, dataset: str) -> dict[tuple[str, str], float | None]:
    """A table as printed: (method, column) to percent; None where it has a dash."""
    return {
        (value["method"], value["column"]): value["value"]
        for value in json.loads(PRINTED.read_text())["values"]
        if (value["table"], value["dataset"]) == (table, DATASETS.get(dataset))
    }
