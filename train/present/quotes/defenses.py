"""The tables of docs/defenses.md."""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from splic_jax import METHODS
from train.present.markdown import dataset_name, markdown_table, provenance_line

_FILE = "defenses_small.json"


def _record(results: pathlib.Path) -> dict[str, Any]:
    return json.loads((results / _FILE).read_text())


def _with_interval(cell: Mapping[str, Any]) -> str:
    low, high = cell["accuracy_interval"]
    return f"{100 * cell['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _psnr(cell: Mapping[str, Any]) -> str:
    return f"{cell['psnr_db']['mean']:.1f}" if cell["psnr_db"] else "-"


def cells_of(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Cells by defence, and by the attack's first word: "none", "FGSM", "PGD-7"."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        attack = cell["attack"].split(",")[0]
        found.setdefault(cell["defense"], {})[attack] = cell
    return found


def _rows(cells: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, list[str]]]:
    """For each defence its name, and accuracy clean, under FGSM and PGD, and PSNR."""
    for name, found in cells_of(cells).items():
        three = [found[attack] for attack in ("none", "FGSM", "PGD-7")]
        psnr = [_psnr(three[0]), _psnr(three[2])]
        yield name, [*map(_with_interval, three), *psnr]


_HEADS = ["clean, %", "FGSM, %", "PGD-7, %", "PSNR clean", "PSNR attacked"]


def network_line(record: Mapping[str, Any]) -> str:
    """What was measured, on what, and where it stands."""
    settings, training = (record["network"][x] for x in ("settings", "training_set"))
    return (
        f"{dataset_name(record)}, the first {record['dataset']['count']} test images; "
        f"`{settings['model']}` network trained on {training['num_train']:,} images as "
        f"they are, {settings['epochs']} epochs; seed {record['seed']}; "
        f"{provenance_line(record)}. [results/{_FILE}](../results/{_FILE})"
    )


def method_table(results: pathlib.Path) -> str:
    """One row a method, from the registry, with the measured cost."""
    costs = {row["defense"]: row for row in _record(results)["costs"]}
    heads = "name, method, idea, source, random, derivative, cost, how to break it"
    rows = [heads.split(", ")]
    for name, method in METHODS.items():
        cost = f"{costs[name]['ratio_to_splic']:.2g}" if name in costs else "-"
        rows.append(
            [
                f"`{name}`",
                method.title,
                method.idea,
                method.source,
                "yes" if method.random else "no",
                "true" if method.differentiable else "none",
                cost,
                method.attack,
            ]
        )
    return (
        f"{markdown_table(rows, len(rows[0]))}\n\nCost: time of an image as a multiple "
        f"of SPLIC's ({1000 * costs['splic']['seconds']:.1f} ms) in one run, "
        f"{provenance_line(_record(results))}. [results/{_FILE}](../results/{_FILE})"
    )


def defenses_small(results: pathlib.Path) -> str:
    """Every method in front of one network, gray-box."""
    record = _record(results)
    rows = [["defence", *_HEADS], *([name, *r] for name, r in _rows(record["bare"]))]
    by_pgd = {
        c["defense"]: c["accuracy"]
        for c in record["methods"]
        if c["attack"].startswith("PGD")
    }
    of_methods = sorted(_rows(record["methods"]), key=lambda row: by_pgd[row[0]])
    rows += [[METHODS[name].title, *cells] for name, cells in of_methods]
    return (
        f"{markdown_table(rows, 1)}\n\nBy accuracy under PGD. Gray-box: FGSM, and "
        "PGD-7 with steps of 2/255, in the L-infinity ball of 8/255 on the network "
        f"alone; 95 % Wilson intervals; PSNR in dB. {network_line(record)}"
    )


def defenses_sweeps(results: pathlib.Path) -> str:
    """SPLIC with one setting changed at a time."""
    record = _record(results)
    (default,) = (cells for name, cells in _rows(record["methods"]) if name == "splic")
    rows = [["setting", *_HEADS], ["the defaults", *default]]
    rows += [[f"`{name}`", *cells] for name, cells in _rows(record["sweeps"])]
    return f"{markdown_table(rows, 1)}\n\n{network_line(record)}"


def defenses_votes(results: pathlib.Path) -> str:
    """Random methods that draw several times for each answer."""
    record = _record(results)
    alone = dict(_rows(record["methods"]))
    rows = [["defence", "draws", *_HEADS[:3]]]
    for name, cells in _rows(record["voted"]):
        rows.append([METHODS[name].title, "1", *alone[name][:3]])
        rows.append(["", str(record["votes"]), *cells[:3]])
    return (
        f"{markdown_table(rows, 1)}\n\nThe mean of the logits decides. "
        f"{network_line(record)}"
    )
