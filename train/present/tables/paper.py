"""The paper's printed values, and ours beside them."""

from collections.abc import Iterable, Sequence

from train.present.results import PRINTED, Results
from train.present.table import Column, Shown, Table, make_table
from train.present.tables import defenses
from train.present.tables.accuracy import defense_title

# (table, method, column) of the paper's CIFAR-10 -> where ours is: file, list, defence,
# threat, beginning of the attack's name.
Key = tuple[int, str, str]
OURS: dict[Key, tuple[str, str, str, str, str]] = {
    (1, "Vanilla", "Clean"): ("cifar10_bare.json", "cells", "none", "clean", ""),
    (1, "SPLIC", "Clean"): ("cifar10_splic.json", "cells", "splic", "clean", ""),
    (1, "SPLIC", "PGD"): ("cifar10_splic.json", "cells", "splic", "black-box", "PGD-7"),
    (2, "Vanilla", "BPDA"): (
        "cifar10_bare.json",
        "cells",
        "none",
        "white-box",
        "PGD-7",
    ),
    (2, "SPLIC", "BPDA"): (
        "cifar10_splic.json",
        "cells",
        "splic",
        "white-box",
        "BPDA (PGD-7",
    ),
    **{
        (3, method, column): (defenses.FILE, "methods", ours, "gray-box", attack)
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
    if source is None or results.get(f"{source}/value") is None:
        return None
    return f"{source}/value"


def ours(results: Results, key: Key) -> str | None:
    """The source of our cell for a printed value on CIFAR-10, None without one."""
    name, cells, defense, threat, attack = OURS[key]
    if not results.has(name) or results.record(name)["dataset"]["name"] != "cifar10":
        return None
    for source in results.each(f"{name}#/{cells}", defense=defense, threat=threat):
        if results.value(source)["attack"].startswith(attack):
            return source
    return None


def side_by_side(results: Results, keys: Iterable[Key] = OURS) -> Table:
    """The printed values that we have measured too, beside ours.

    Args:
        results: where to look.
        keys: which of `OURS`.
    """
    found = {key: (printed(results, *key), ours(results, key)) for key in keys}

    def place(key: Key) -> str:
        cell = results.value(found[key][1])
        return (
            f"Table {key[0]}; ours: {defense_title(cell['defense'])}, {cell['threat']}"
        )

    def verdict(key: Key) -> str:
        theirs, mine = found[key]
        low, high = results.value(f"{mine}/accuracy_interval")
        return (
            "inside" if 100 * low <= results.value(theirs) <= 100 * high else "outside"
        )

    def shown(head: str, at: str, format: str) -> Column:
        return Column(head, lambda key: results.show(f"{found[key][1]}{at}", format))

    return make_table(
        results,
        "CIFAR-10: the paper's values, ours, and the difference in points",
        (
            Column("method", lambda key: key[1], words=True),
            Column("attack", lambda key: key[2], words=True),
            Column("printed in", place, words=True),
            Column("paper %", lambda key: results.show(found[key][0], "printed")),
            shown("ours %", "/accuracy", "percent"),
            shown("95 % interval", "/accuracy_interval", "interval"),
            shown("images", "/count", "integer"),
            Column(
                "difference",
                lambda key: results.show(
                    f"{found[key][1]}/accuracy", "difference", found[key][0]
                ),
            ),
            Column("the paper's value is", verdict),
        ),
        [key for key in found if all(found[key])],
    )


def as_printed(results: Results) -> list[Table]:
    """Tables 1 to 4 as printed."""
    tables = []
    for number, about in results.record(PRINTED)["tables"].items():
        rows = dict.fromkeys(
            (value["dataset"], value["method"])
            for value in results.record(PRINTED)["values"]
            if value["table"] == int(number)
        )

        def column(name: str, number: str = number) -> Column:
            def cell(row: tuple[str, str]) -> Shown:
                source = printed(results, int(number), row[1], name, row[0])
                return source and results.show(source, "printed")

            return Column(f"{name}, %", cell)

        tables.append(
            make_table(
                results,
                f"Table {number} (section {about['section']}): {about['title']}",
                (
                    Column("data set", lambda row: row[0], words=True),
                    Column("method", lambda row: row[1], words=True),
                    *map(column, about["columns"]),
                ),
                rows,
            )
        )
    return tables


def is_finished(results: Results, file: str) -> bool:
    """Whether `reproduce` has measured all of a table or figure."""
    return results.has(file) and bool(results.get(f"{file}#/finished"))


def swept(results: Results, file: str) -> Table:
    """A sweep of the paper as `reproduce` measured it: a row for each of its rows."""
    cells: dict[str, dict[str, str]] = {}
    for source in results.each(f"{file}#/cells"):
        cell = results.value(source)
        cells.setdefault(cell["row"], {})[cell["column"]] = source
    columns = dict.fromkeys(column for of in cells.values() for column in of)

    def column(name: str) -> Column:
        def cell(row: str) -> Shown:
            source = cells[row].get(name)
            return source and results.show(source, "accuracy")

        return Column(name, cell)

    head = Column("accuracy, % (95 % interval)", lambda row: row, words=True)
    return make_table(
        results,
        str(results.value(f"{file}#/title")),
        (head, *map(column, columns)),
        cells,
    )


def outside(rows: Sequence[dict]) -> tuple[int, int]:
    """How many printed values lie outside our interval, and how many there are."""
    compared = [row for row in rows if row["paper"] is not None]
    return sum(row["verdict"] == "disagrees" for row in compared), len(compared)
