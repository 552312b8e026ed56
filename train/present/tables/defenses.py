"""All input transforms in front of one network, and settings of SPLIC."""

from collections.abc import Iterable, Mapping

from splic_jax import METHODS
from train.present.results import Results
from train.present.table import Code, Column, Shown, Table, make_table
from train.present.tables.accuracy import defense_title

FILE = "defenses.json"
ATTACKS = ("none", "FGSM", "PGD-7")

# What a row is about: its name, and its cells by the attack's first word.
Row = tuple[Shown, Mapping[str, str]]


def cells_of(results: Results, part: str) -> dict[str, dict[str, str]]:
    """Sources by defence, and by the attack's first word: "none", "FGSM", "PGD-7"."""
    found: dict[str, dict[str, str]] = {}
    for source in results.each(f"{FILE}#/{part}"):
        cell = results.value(source)
        attack = cell["attack"].split(",")[0]
        found.setdefault(cell["defense"], {})[attack] = source
    return found


def ordered_methods(results: Results) -> dict[str, dict[str, str]]:
    """The methods' cells, by accuracy under PGD."""
    found = cells_of(results, "methods")

    def attacked(name: str) -> float:
        accuracy: float = results.value(f"{found[name]['PGD-7']}/accuracy")
        return accuracy

    return {name: found[name] for name in sorted(found, key=attacked)}


def _columns(results: Results, *heads: tuple[str, str, str, str]) -> list[Column]:
    """Columns by head, attack, what of the cell, and format."""

    def column(head: str, attack: str, at: str, format: str) -> Column:
        inner = Column(head, at, format)
        return Column(head, lambda row: inner.cell(results, row[1].get(attack)))

    return [column(*of) for of in heads]


def _table(results: Results, caption: str, head: str, rows: Iterable[Row]) -> Table:
    accuracy = ("", "accuracy")
    psnr = ("/psnr_db/mean", "decimal")
    return make_table(
        results,
        caption,
        [
            Column(head, lambda row: row[0], words=True),
            *_columns(
                results,
                ("clean, %", "none", *accuracy),
                ("FGSM, %", "FGSM", *accuracy),
                ("PGD-7, %", "PGD-7", *accuracy),
                ("PSNR clean", "none", *psnr),
                ("PSNR attacked", "PGD-7", *psnr),
            ),
        ],
        rows,
    )


def methods(results: Results) -> Table:
    """Every method in front of one network, gray-box, by accuracy under PGD."""
    bare, found = cells_of(results, "bare"), ordered_methods(results)
    rows = [(defense_title(name), of) for name, of in {**bare, **found}.items()]
    return _table(results, "Accuracy, with its interval", "defence", rows)


def sweeps(results: Results) -> Table:
    """SPLIC with one setting changed at a time."""
    rows: list[Row] = [("the defaults", cells_of(results, "methods")["splic"])]
    rows += [(Code(name), of) for name, of in cells_of(results, "sweeps").items()]
    return _table(results, "SPLIC, one setting changed at a time", "setting", rows)


def votes(results: Results) -> Table:
    """Random methods that draw several times for each answer."""
    alone, rows = cells_of(results, "methods"), []
    for name, cells in cells_of(results, "voted").items():
        rows += [(defense_title(name), alone[name]), ("", cells)]
    table = _table(results, "The mean of the logits of several draws", "defence", rows)
    table = table.without("PSNR clean", "PSNR attacked")
    draws = ("one", results.show(f"{FILE}#/votes", "integer"))
    return table.with_column(1, Column("draws"), [draws[not row[0]] for row in rows])


def registry(results: Results) -> Table:
    """One row a method, from the registry, with the measured cost."""

    def cost(name: str) -> Shown:
        if not results.has(FILE):
            return None
        found = results.find(f"{FILE}#/costs", defense=name)
        return found and results.show(f"{found}/ratio_to_splic", ":.2g")

    return make_table(
        results,
        "The methods",
        (
            Column("name", Code, words=True),
            Column("method", lambda name: METHODS[name].title, words=True),
            Column("idea", lambda name: METHODS[name].idea, words=True),
            Column("source", lambda name: METHODS[name].source, words=True),
            Column(
                "random",
                lambda name: "yes" if METHODS[name].random else "no",
                words=True,
            ),
            Column(
                "derivative",
                lambda name: "true" if METHODS[name].differentiable else "none",
                words=True,
            ),
            Column("cost", cost, words=True),
            Column("how to break it", lambda name: METHODS[name].attack, words=True),
        ),
        METHODS,
    )
