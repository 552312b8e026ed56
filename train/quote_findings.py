"""The tables of docs/findings.md."""

import json
import pathlib
from typing import Any

from train.markdown import dataset_name, markdown_table, provenance_line
from train.quote_defenses import cells_of, network_line

_PRINTED = pathlib.Path(__file__).with_name("printed.json")
# The paper's rows of Table 3, and the methods here that are nearest to them.
_TABLE_3 = {
    "USVT": "usvt",
    "Soft-Imp": "soft_impute",
    "ME-Net": "nuclear_norm",
    "SPLIC": "splic",
}


def _printed(table: int, dataset: str) -> dict[tuple[str, str], float]:
    values = json.loads(_PRINTED.read_text())["values"]
    return {
        (row["method"], row["column"]): row["value"]
        for row in values
        if (row["table"], row["dataset"]) == (table, dataset)
    }


def finding_table3(results: pathlib.Path) -> str:
    """The paper's Table 3 and ours side by side."""
    record = json.loads((results / "defenses_small.json").read_text())
    cells, printed = cells_of(record["methods"]), _printed(3, "CIFAR-10")
    heads = "method, attack, paper %, ours %, 95 % interval, difference"
    rows = [[*heads.split(", "), "the paper's value is"]]
    for row, name in _TABLE_3.items():
        for column, attack in (("FGSM", "FGSM"), ("PGD", "PGD-7")):
            cell, value = cells[name][attack], printed[row, column]
            low, high = (100 * x for x in cell["accuracy_interval"])
            ours = 100 * cell["accuracy"]
            rows.append(
                [
                    row,
                    column,
                    f"{value:.1f}",
                    f"{ours:.1f}",
                    f"{low:.1f} to {high:.1f}",
                    f"{ours - value:+.1f}",
                    "inside" if low <= value <= high else "outside",
                ]
            )
    return f"{markdown_table(rows, 2)}\n\n{network_line(record)}"


def finding_formulas(results: pathlib.Path) -> str:
    """The formulas as derived and as printed, and SPLIC with and without TV."""
    record = json.loads((results / "defenses_small.json").read_text())
    methods, sweeps = cells_of(record["methods"]), cells_of(record["sweeps"])
    rows = [["SPLIC", "clean %", "PGD-7 %", "PSNR clean, dB", "PSNR attacked, dB"]]
    for words, found in (
        ("exact gradient of (6), step scaled by delta^2", methods["splic"]),
        ("eq. (10) and line 11 as printed", sweeps["formulas=as printed"]),
        ("without total variation", methods["splic_no_tv"]),
        ("pass 1 alone, no alternation", sweeps["alternate=False"]),
        ("no rank cut", sweeps["rank_cut=False"]),
    ):
        rows.append([words, *_accuracy_and_psnr(found)])
    return f"{markdown_table(rows, 1)}\n\n{network_line(record)}"


def _accuracy_and_psnr(found: dict[str, Any]) -> list[str]:
    clean, attacked = found["none"], found["PGD-7"]
    return [f"{100 * cell['accuracy']:.1f}" for cell in (clean, attacked)] + [
        f"{cell['psnr_db']['mean']:.1f}" for cell in (clean, attacked)
    ]


def finding_cost(results: pathlib.Path) -> str:
    """What purification costs in clean accuracy, with and without retraining."""
    rows = [["images", "network trained on", "bare %", "behind SPLIC %"]]
    for name in ("bare", "splic"):
        record = json.loads((results / f"cifar10_{name}.json").read_text())
        clean = {c["defense"]: c for c in record["cells"] if c["threat"] == "clean"}
        rows.append(
            [
                dataset_name(record),
                {"bare": "images as they are", "splic": "purified images"}[name],
                *(f"{100 * clean[d]['accuracy']:.1f}" for d in ("none", "splic")),
            ]
        )
    return (
        f"{markdown_table(rows, 2)}\n\nThe first {record['dataset']['count']} test "
        "images. [bare](../results/cifar10_bare.json), "
        "[splic](../results/cifar10_splic.json)"
    )


def _finished(path: pathlib.Path) -> dict[str, Any] | None:
    """What `reproduce` wrote, once all of it has been measured."""
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    return record if record["finished"] else None


def reproduced_table(number: int, results: pathlib.Path) -> str:
    """A table of the paper as `reproduce` measured it, beside the printed values."""
    file = f"reproduction/table{number}.json"
    record = _finished(results / file)
    if record is None:
        return f"Table {number} has not been run on real images yet."
    heads = "method, column, paper %, ours %, 95 % interval, images, difference"
    rows = [[*heads.split(", "), "the paper's value"]]
    for row in record["comparison"]:
        paper, difference = row["paper"], row["difference"]
        low, high = row["interval"]
        rows.append(
            [
                row["row"],
                row["column"],
                "-" if paper is None else f"{paper:.1f}",
                f"{row['ours']:.1f}",
                f"{low:.1f} to {high:.1f}",
                str(row["count"]),
                "-" if difference is None else f"{difference:+.1f}",
                row["verdict"],
            ]
        )
    printed = [row for row in record["comparison"] if row["paper"] is not None]
    apart = sum(row["verdict"] == "disagrees" for row in printed)
    verdict = "the paper prints none of these"
    if printed:
        verdict = (
            f"{apart} of {len(printed)} printed values disagree, that is lie outside "
            "our interval"
        )
    return (
        f"{markdown_table(rows, 2)}\n\n"
        f"Table {number}, {record['title']}: {verdict}. "
        f"{dataset_name(record)}; scale {record['scale']['name']}: "
        f"{record['scale']['about']}; seed {record['seed']}; "
        f"{provenance_line(record)}. [results/{file}](../results/{file})"
    )


def reproduced_figure(number: int, results: pathlib.Path) -> str:
    """A sweep of the paper as `reproduce` measured it: a row for each of its rows."""
    file = f"reproduction/figure{number}.json"
    record = _finished(results / file)
    if record is None:
        return f"Figure {number} has not been run on real images yet."
    columns = list(dict.fromkeys(cell["column"] for cell in record["cells"]))
    found: dict[str, dict[str, str]] = {}
    for cell in record["cells"]:
        low, high = (f"{100 * x:.1f}" for x in cell["accuracy_interval"])
        shown = f"{100 * cell['accuracy']:.1f} ({low} to {high})"
        found.setdefault(cell["row"], {})[cell["column"]] = shown
    rows = [["accuracy, % (95 % interval)", *columns]]
    rows += [[row, *(of.get(c, "-") for c in columns)] for row, of in found.items()]
    counts = sorted({cell["count"] for cell in record["cells"]})
    facts = [
        f"Figure {number}, {record['title']}",
        f"{dataset_name(record)}, {' or '.join(map(str, counts))} test images, scale "
        f"{record['scale']['name']}, seed {record['seed']}",
        provenance_line(record),
    ]
    for column, db in record.get("splic_minus_srf_db", {}).items():
        mean, width = db["mean"], db["half_width"]
        facts.insert(
            1, f"PSNR of SPLIC less SRF's, {column}: {mean:+.2f} +- {width:.2f} dB"
        )
    return (
        f"{markdown_table(rows, 1)}\n\n{'; '.join(facts)}. "
        f"[results/{file}](../results/{file})"
    )
