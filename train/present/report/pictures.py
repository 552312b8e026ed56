"""The sections that show pictures: samples, explorer, and figures drawn elsewhere."""

import base64
from collections.abc import Mapping
from typing import Any

from train.present.results import Results
from train.present.tables.accuracy import NETWORKS


def picture(results: Results, name: str) -> str:
    """A PNG of the results as a data URI."""
    data = base64.b64encode((results.folder / name).read_bytes()).decode()
    return f"data:image/png;base64,{data}"


def samples(results: Results) -> dict[str, Any]:
    """Images with what the networks say of them."""
    record = results.record("samples.json")
    count = len(record["images"])
    images = []
    for i, image in enumerate(record["images"]):
        source = f"samples.json#/images/{i}"
        networks = [
            {
                "id": name,
                "title": f"trained on {NETWORKS[name]}",
                "views": [
                    _view(results, source, i, row, view, name)
                    for row, view in enumerate(record["views"])
                ],
            }
            for name in NETWORKS
        ]
        images.append({"index": i, "label": image["label"], "networks": networks})
    return {
        "images": images,
        "start": _first_right(record),
        "views": [
            {"name": view, "row": row} for row, view in enumerate(record["views"])
        ],
        "columns": count,
        "rows": len(record["views"]),
        "sheet": picture(results, "samples.png"),
        "networks": [
            {"id": name, "title": f"trained on {words}"}
            for name, words in NETWORKS.items()
        ],
    }


def _first_right(record: Mapping[str, Any]) -> int:
    """The first image that the network gets right when nobody attacks."""
    for i, image in enumerate(record["images"]):
        if image["views"]["clean"]["top"]["bare"][0]["class"] == image["label"]:
            return i
    return 0


def _view(
    results: Results, source: str, column: int, row: int, view: str, network: str
) -> dict[str, Any]:
    at = f"{source}/views/{view}"
    label = results.value(f"{source}/label")
    psnr = results.get(f"{at}/psnr_db")
    top = [
        {
            "class": results.show(f"{one}/class", "text"),
            "probability": results.show(f"{one}/probability", "whole percent"),
            "right": results.value(f"{one}/class") == label,
        }
        for one in results.each(f"{at}/top/{network}")
    ]
    return {
        "name": view,
        "column": column,
        "row": row,
        "psnr": None if psnr is None else results.show(f"{at}/psnr_db", "decimal"),
        "top": top,
    }


def explorer(results: Results) -> dict[str, Any]:
    """Images purified under a grid of settings."""
    record = results.record("samples.json")
    explored, rows = record["explored"], record["rows_an_image"]
    columns = len(record["explorer"]) // rows
    words = {
        "rank": "rank r",
        "tv_weight": "weight \N{GREEK SMALL LETTER LAMDA} of the total variation",
        "keep_probability": "keep probability p",
    }
    controls = [
        {
            "id": name,
            "title": words[name],
            "values": [
                results.show(f"samples.json#/grid/{name}/{i}", "number")
                for i in range(len(values))
            ],
            "start": len(values) // 2 if name != "rank" else len(values) - 2,
        }
        for name, values in record["grid"].items()
    ]
    settings = []
    for i, cell in enumerate(record["explorer"]):
        source = f"samples.json#/explorer/{i}"
        images = []
        for j, image in enumerate(cell["images"]):
            at = f"{source}/images/{j}"
            images.append(
                {
                    "column": i % columns,
                    "row": j * rows + i // columns,
                    "psnr": image["psnr_db"] is not None
                    and results.show(f"{at}/psnr_db", "decimal"),
                    "class": results.show(f"{at}/class", "text"),
                    "probability": results.show(f"{at}/probability", "whole percent"),
                    "right": image["class"] == record["images"][j]["label"],
                }
            )
        settings.append(
            {
                "values": [
                    results.show(f"{source}/{name}", "number")
                    for name in record["grid"]
                ],
                "images": images,
            }
        )
    return {
        "controls": controls,
        "settings": settings,
        "images": [
            {"index": j, "label": record["images"][j]["label"]} for j in range(explored)
        ],
        "columns": columns,
        "rows": explored * rows,
        "sheet": picture(results, "explorer.png"),
        "sample_columns": len(record["images"]),
    }


def drawn(results: Results) -> dict[str, Any]:
    """Figures that the benchmarks drew."""
    return {
        "figures": [
            {
                "sheet": picture(results, name),
                "alt": alt,
                "caption": caption,
                "file": name,
            }
            for name, alt, caption in _FIGURES
            if results.has(name)
        ]
    }


_FIGURES = (
    (
        "gradients.png",
        "Error of the gradient of the smoothed rank against float64, and its time "
        "against the closed form, for each way to compute it",
        "Gradient of the smoothed rank: error against float64, and time as a multiple "
        "of the closed form.",
    ),
    (
        "growth.png",
        "Time and memory of purification against the number of images, their side, and "
        "the number of devices",
        "Purification: how time and memory grow.",
    ),
)
