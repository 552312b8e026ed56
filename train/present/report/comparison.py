"""The paper's printed values, and ours beside those that there are ours of."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from train.present import plots
from train.present.plots import Series
from train.present.report.tables import (
    Cell,
    Table,
    accuracy,
    defense_title,
    make_table,
    point,
)
from train.present.report.traced import Results

PRINTED = "printed.json"
_SMALL = "defenses_small.json"
# (table, method, column) of the paper's CIFAR-10 -> where ours is, the first that is
# there: file, list, defence, threat, beginning of the attack's name.
OURS: dict[tuple[int, str, str], Sequence[tuple[str, str, str, str, str]]] = {
    (1, "Vanilla", "Clean"): [("cifar10_bare.json", "cells", "none", "clean", "")],
    (1, "SPLIC", "Clean"): [("cifar10_splic.json", "cells", "splic", "clean", "")],
    (1, "SPLIC", "PGD"): [
        ("cifar10_splic.json", "cells", "splic", "black-box", "PGD-7")
    ],
    (2, "Vanilla", "BPDA"): [
        ("cifar10_bare.json", "cells", "none", "white-box", "PGD-7")
    ],
    (2, "SPLIC", "BPDA"): [
        ("cifar10_splic.json", "cells", "splic", "white-box", "BPDA (PGD-7")
    ],
    **{
        (3, method, column): [
            *(
                [("cifar10_bare.json", "cells", ours, "gray-box", attack)]
                if ours == "splic"
                else []
            ),
            (_SMALL, "methods", ours, "gray-box", attack),
        ]
        for method, ours in (
            ("USVT", "usvt"),
            ("Soft-Imp", "soft_impute"),
            ("ME-Net", "nuclear_norm"),
            ("SPLIC", "splic"),
        )
        for column, attack in (("FGSM", "FGSM"), ("PGD", "PGD-7"))
    },
}


def printed(
    results: Results, table: int, method: str, column: str, dataset: str = "CIFAR-10"
) -> str | None:
    """The source of a printed value; None where a dash or nothing is printed."""
    source = results.find(
        f"{PRINTED}#/values",
        table=table,
        dataset=dataset,
        method=method,
        column=column,
    )
    if source is None or results.value(source)["value"] is None:
        return None
    return f"{source}/value"


def ours(results: Results, table: int, method: str, column: str) -> str | None:
    """The source of our cell for a printed value on CIFAR-10, None without one."""
    for name, cells, defense, threat, attack in OURS.get((table, method, column), ()):
        if not results.has(name) or results.record(name)["dataset"]["name"] != (
            "cifar10"
        ):
            continue
        for source in results.each(f"{name}#/{cells}", defense=defense, threat=threat):
            if results.value(source)["attack"].startswith(attack):
                return source
    return None


def side_by_side(results: Results) -> Table | None:
    """Every printed value that there is one of ours for; None without any."""
    rows = []
    for table, method, column in OURS:
        theirs = printed(results, table, method, column)
        mine = ours(results, table, method, column)
        if theirs is None or mine is None:
            continue
        rows.append(
            [
                Cell(
                    f"{method}, {column}", f"Table {table}; {_name_of(results, mine)}"
                ),
                results.show(theirs, "printed"),
                Cell(
                    results.show(f"{mine}/accuracy", "percent"),
                    results.show(f"{mine}/accuracy_interval", "interval"),
                ),
                results.show(f"{mine}/accuracy {theirs}", "difference"),
                results.show(f"{mine}/count", "integer"),
            ]
        )
    if not rows:
        return None
    heads = "printed for, paper %, ours %, points, images"
    return make_table(
        "CIFAR-10: the paper's values, ours, and the difference in points",
        heads.split(", "),
        rows,
    )


def _name_of(results: Results, source: str) -> str:
    cell = results.value(source)
    return f"ours: {defense_title(cell['defense'])}, {cell['threat']}"


def printed_tables(results: Results) -> list[Table]:
    """Tables 1 to 4 as printed."""
    tables = []
    for number, about in results.record(PRINTED)["tables"].items():
        values = [
            value
            for value in results.record(PRINTED)["values"]
            if value["table"] == int(number)
        ]
        pairs = dict.fromkeys((value["dataset"], value["method"]) for value in values)
        rows = []
        for dataset, method in pairs:
            sources = [
                printed(results, int(number), method, column, dataset)
                for column in about["columns"]
            ]
            shown = [source and results.show(source, "printed") for source in sources]
            rows.append([dataset, method, *shown])
        heads = ("data set", "method", *(f"{x}, %" for x in about["columns"]))
        caption = f"Table {number} (section {about['section']}): {about['title']}"
        tables.append(make_table(caption, heads, rows, labels=2))
    return tables


def reproduced(results: Results) -> list[dict[str, Any]]:
    """The paper's tables as `reproduce` measured them, those that it has finished."""
    found = []
    for number in results.record(PRINTED)["tables"]:
        name = f"reproduction/table{number}.json"
        if not _is_done(results, name):
            continue
        caption = f"Table {number}, rerun on CIFAR-10: paper and ours in %"
        heads = "method, column, paper, ours, points, images, the paper's value"
        comparison = results.each(f"{name}#/comparison")
        rows = [
            _reproduced_row(results, int(number), cell, compared)
            for cell, compared in zip(
                results.each(f"{name}#/cells"), comparison, strict=True
            )
        ]
        table = make_table(caption, heads.split(", "), rows, labels=2)
        at = f"{name}#/scale"
        about = [results.show(f"{at}/{x}", "text") for x in ("name", "about")]
        found.append({"table": table, "about": about})
    return found


def _is_done(results: Results, name: str) -> bool:
    return (
        results.has(name)
        and results.value(f"{name}#/finished")
        and results.value(f"{name}#/dataset/name") == "cifar10"
    )


def swept(results: Results) -> list[Markup]:
    """The paper's sweeps as `reproduce` measured them, a plot each."""
    found = []
    for number, setting, even in (
        (6, "target rank r", False),
        (9, "weight \N{GREEK SMALL LETTER LAMDA}", True),
        (11, "keep probability p", False),
    ):
        name = f"reproduction/figure{number}.json"
        if not _is_done(results, name):
            continue
        rows: dict[str, dict[float, str]] = {}
        for source in results.each(f"{name}#/cells"):
            cell = results.value(source)
            rows.setdefault(cell["row"], {})[float(cell["column"])] = source
        positions = sorted({x for of in rows.values() for x in of})
        series = [
            Series(row, [point(results, of.get(x)) for x in positions])
            for row, of in rows.items()
        ]
        quantity = f"accuracy, % ({cell['count']} images)"
        alt = f"Figure {number}, rerun: accuracy against the {setting}, with interval"
        svg = plots.curves(positions, series, setting, quantity, even=even)
        found.append(Markup(plots.with_name(svg, f"figure-{number}", alt)))
    return found


def _reproduced_row(
    results: Results, number: int, cell: str, compared: str
) -> list[Any]:
    facts = results.value(compared)
    theirs = None
    if facts["paper"] is not None:
        theirs = printed(results, number, facts["row"], facts["column"])
    return [
        *(results.show(f"{cell}/{place}", "text") for place in ("row", "column")),
        theirs and results.show(theirs, "printed"),
        accuracy(results, cell),
        theirs and results.show(f"{cell}/accuracy {theirs}", "difference"),
        results.show(f"{cell}/count", "integer"),
        results.show(f"{compared}/verdict", "text"),
    ]


def beside(results: Results) -> dict[str, Any]:
    """The paper's tables, and ours beside them."""
    return {
        "table": side_by_side(results),
        "reproduced": reproduced(results),
        "swept": swept(results),
        "printed": printed_tables(results),
    }
