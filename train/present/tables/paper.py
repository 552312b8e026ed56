"""The paper's tables and figures: as printed, and as `reproduce` measured them."""

from collections.abc import Sequence

from train.present.results import PRINTED, Results
from train.present.table import Column, Shown, Table, make_table


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


def file_of(table: int) -> str:
    """The file of a table as `reproduce` measured it."""
    return f"reproduction/table{table}.json"


def ours(results: Results, table: int, row: str, column: str) -> str | None:
    """The source of our cell of a table; None where it has not been measured."""
    file = file_of(table)
    if not results.has(file):
        return None
    return results.find(f"{file}#/cells", row=row, column=column)


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
