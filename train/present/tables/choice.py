"""The sweep behind the defaults: SPLIC's settings and every transform."""

from collections.abc import Iterable, Sequence

from splic_jax import SPLICConfig
from splic_jax.transforms import as_dict
from train.present.results import Results
from train.present.table import Column, Shown, Table, make_table
from train.present.tables.accuracy import defense_title
from train.present.tables.paper import is_finished

NETWORKS = ("resnet56", "resnet20")
WITHIN = 0.02  # of the best score: `train.reproductions.choice.CRITERION`
LAMBDA = ("separate channels", "concatenated channels")
SETTINGS = (
    "mask",
    "mask design",
    "rank",
    "keep probability",
    "alternation",
    "tv_scales",
    "printed forms",
)
_OTHERS = "other transforms"
# SPLIC in the table of all transforms: as printed, and two of the best settings.
_BESIDE = (
    "separate, lambda 0.02",
    "separate, lambda 0.15",
    "concatenated, lambda 0.15",
)
_FORMULAS = {
    "exact gradient of (6), step scaled by delta^2": "separate, lambda 0.15",
    "eq. (10) as printed": "eq. (10) as printed",
    "line 11 as printed": "line 11 as printed, lambda 0.15",
    "without total variation": "separate, lambda 0",
    "pass 1 alone, no alternation": "pass 1 only, lambda 0.15",
    "no rank cut": "no rank cut",
    "exact and scaled, the printed lambda": "separate, lambda 0.02",
    "eq. (10) and line 11 as printed, the printed lambda": "everything as printed",
}


def file_of(network: str) -> str:
    """The file of the sweep in front of a network."""
    return f"reproduction/choice_{network}.json"


def measured(results: Results) -> list[str]:
    """The files of the sweep that there are."""
    files = (file_of(network) for network in NETWORKS)
    return [file for file in files if is_finished(results, file)]


def row_of(results: Results, file: str, name: str) -> str | None:
    """The source of a setting's row, None without one."""
    return results.find(f"{file}#/rows", row=name)


def _of_groups(results: Results, file: str, groups: Iterable[str]) -> list[str]:
    found = results.each(f"{file}#/rows")
    return [row for row in found if results.value(f"{row}/group") in groups]


def adaptive_file_of(file: str) -> str:
    """The file of the adaptive attack on some settings of a sweep."""
    return file.replace("choice_", "choice_adaptive_")


def _columns(results: Results, file: str) -> list[Column]:
    attacks = {"clean": "Clean", "FGSM": "FGSM", "PGD": "PGD", "C&W": "CW"}
    columns = [
        Column(f"{head}, %", f"/held_out/{at}", "accuracy")
        for head, at in attacks.items()
    ]
    adaptive = adaptive_file_of(file)
    if results.has(adaptive):

        def cell(row: str) -> Shown:
            name = results.value(f"{row}/row")
            found = results.find(f"{adaptive}#/cells", row=name)
            return found and results.show(found, "accuracy")

        columns.append(Column("adaptive, %", cell))
    left = Column("perturbation left, %", "/perturbation_left", "mean share")
    return [*columns, left]


def by_lambda(results: Results, file: str) -> Table:
    """SPLIC by the weight of the total variation, channels apart and side by side."""
    return make_table(
        results,
        "SPLIC by lambda",
        [Column("channels, lambda", "/row", words=True), *_columns(results, file)],
        _of_groups(results, file, LAMBDA),
    )


def settings(results: Results, file: str) -> Table:
    """SPLIC with another setting changed at a time."""
    return make_table(
        results,
        "SPLIC's other settings",
        [
            Column("what changes", "/group", words=True),
            Column("setting", "/row", words=True),
            *_columns(results, file),
        ],
        _of_groups(results, file, SETTINGS),
    )


def transforms(results: Results, file: str) -> Table:
    """Every transform, and SPLIC among them, by accuracy under PGD."""
    beside = [row for name in _BESIDE if (row := row_of(results, file, name))]
    rows = [*_of_groups(results, file, (_OTHERS, "none")), *beside]

    def attacked(row: str) -> float:
        accuracy: float = results.value(f"{row}/held_out/PGD/accuracy")
        return accuracy

    def title(row: str) -> Shown:
        if row in beside:
            return results.show(f"{row}/row", "SPLIC with")
        return defense_title(results.value(f"{row}/row"))

    return make_table(
        results,
        "Every transform",
        [Column("in front", title, words=True), *_columns(results, file)],
        sorted(rows, key=attacked),
    )


def formulas(results: Results, file: str) -> Table:
    """The formulas as derived and as printed, and what each part contributes."""
    cells = {}
    for source in results.each(f"{file}#/cells", column="Clean"):
        cells[results.value(f"{source}/row")] = source

    def setting(head: str, field: str, format: str = "text") -> Column:
        def cell(row: tuple[str, str]) -> Shown:
            at = f"{cells[_FORMULAS[row[0]]]}/identity/defense_settings/{field}"
            return results.show(at, format)

        return Column(head, cell, words=format == "text")

    found = {title: row_of(results, file, name) for title, name in _FORMULAS.items()}

    def shown(column: Column) -> Column:
        return Column(column.head, lambda row: column.cell(results, row[1]))

    return make_table(
        results,
        "SPLIC, gray-box",
        [
            Column("SPLIC", lambda row: row[0], words=True),
            setting("lambda", "tv_weight", "number"),
            setting("channels", "channels"),
            *map(shown, _columns(results, file)),
        ],
        [(title, row) for title, row in found.items() if row],
    )


def candidates(results: Results, files: Sequence[str]) -> dict[str, list[str]]:
    """The settings that may become the default, each with its row in every file."""
    found: dict[str, list[str]] = {}
    for file in files:
        for row in results.each(f"{file}#/rows", candidate=True):
            found.setdefault(results.value(f"{row}/row"), []).append(row)
    return {name: rows for name, rows in found.items() if len(rows) == len(files)}


def mean(results: Results, rows: Sequence[str], at: str) -> float:
    """The mean of a value over the networks."""
    return sum(results.value(f"{row}{at}") for row in rows) / len(rows)


SCORE, PSNR = "/score_where_chosen", "/psnr_where_chosen"


def near_the_best(results: Results, files: Sequence[str]) -> dict[str, list[str]]:
    """The candidates within two points of the best score; highest PSNR first."""
    found = candidates(results, files)
    scores = {name: mean(results, rows, SCORE) for name, rows in found.items()}
    least = max(scores.values()) - WITHIN - 1e-9  # two points is within
    near = [name for name in found if scores[name] >= least]
    near.sort(key=lambda name: -mean(results, found[name], PSNR))
    return {name: found[name] for name in near}


def near(results: Results, files: Sequence[str]) -> Table:
    """The candidates that the criterion chooses among, the chosen one first."""
    found = near_the_best(results, files)

    def shown(head: str, at: str, format: str) -> Column:
        def cell(name: str) -> Shown:
            first, *others = (f"{row}{at}" for row in found[name])
            if format == "text":  # the same in every file
                return results.show(first, format)
            return results.show(first, format, *others)

        return Column(head, cell, words=format == "text")

    return make_table(
        results,
        "Candidates within two points of the best score, by PSNR",
        (
            shown("what changes", "/group", "text"),
            shown("setting", "/row", "text"),
            shown("score, %", SCORE, "mean percent"),
            shown("PSNR attacked, dB", PSNR, "mean decimal"),
        ),
        found,
    )


def default(results: Results, file: str) -> str | None:
    """The row of the sweep that has the settings of `SPLICConfig()`."""
    wanted = as_dict(SPLICConfig())
    for source in results.each(f"{file}#/cells", column="Clean"):
        if results.value(f"{source}/identity").get("defense_settings") == wanted:
            return str(results.value(f"{source}/row"))
    return None
