"""The section of all defences in front of one network."""

from typing import Any

from markupsafe import Markup

from train.present import plots
from train.present.plots import Series
from train.present.report.measured import dots
from train.present.report.tables import Cell, accuracy, defense_title, make_table, point
from train.present.report.traced import Results

_SMALL = "defenses_small.json"


def _three(results: Results, part: str, defense: str) -> dict[str, str | None]:
    """Sources of a defence's cells: no attack, FGSM, PGD."""
    found: dict[str, str | None] = {"none": None, "FGSM": None, "PGD-7": None}
    for source in results.each(f"{_SMALL}#/{part}", defense=defense):
        found[results.value(source)["attack"].split(",")[0]] = source
    return found


def _defense_row(results: Results, part: str, defense: str, name: Any) -> list[Any]:
    found = _three(results, part, defense)
    row = [name, *(accuracy(results, found[x]) for x in ("none", "FGSM", "PGD-7"))]
    for attack in ("none", "PGD-7"):
        source = found[attack]
        psnr = source and results.value(source)["psnr_db"]
        row.append(psnr and results.show(f"{source}/psnr_db/mean", "decimal"))
    return row


def _names(results: Results, part: str) -> list[str]:
    return list(dict.fromkeys(c["defense"] for c in results.record(_SMALL)[part]))


def _attacked(results: Results, part: str, defense: str) -> float:
    source = _three(results, part, defense)["PGD-7"]
    return results.value(source)["accuracy"] if source else 1.0


def defenses(results: Results) -> dict[str, Any]:
    """Every defence in front of one network, gray-box."""
    ordered = sorted(
        _names(results, "methods"),
        key=lambda name: -_attacked(results, "methods", name),
    )
    parts = [*(("bare", name) for name in _names(results, "bare"))]
    parts += [("methods", name) for name in ordered]
    heads = "clean, %; FGSM, %; PGD, %; PSNR clean, dB; PSNR attacked, dB".split("; ")
    rows = []
    for part, name in parts:
        cost = results.find(f"{_SMALL}#/costs", defense=name)
        shown = cost and results.show(f"{cost}/ratio_to_splic", "times")
        row = _defense_row(results, part, name, defense_title(name))
        rows.append([*row, shown])
    table = make_table(
        "Accuracy, with its interval below", ["defence", *heads, "time"], rows
    )
    count = results.show(f"{_SMALL}#/dataset/count", "integer").text
    series = [
        Series(
            title,
            [point(results, _three(results, part, d)[attack]) for part, d in parts],
        )
        for title, attack in (("clean", "none"), ("FGSM", "FGSM"), ("PGD", "PGD-7"))
    ]
    alt = (
        "Dot plot of the accuracies in the table, one row for each defence, with a dot "
        "and its interval without attack, under FGSM and under PGD"
    )
    titles = [defense_title(name) for _, name in parts]
    splic = results.find(f"{_SMALL}#/costs", defense="splic")
    return {
        "table": table,
        "plot": dots("defenses", alt, titles, series, count),
        "at": f"{_SMALL}#",
        "seconds": splic and results.show(f"{splic}/seconds", "milliseconds"),
        "sweeps": _sweeps(results, count),
        "sweep_table": make_table(
            "SPLIC, one setting changed at a time",
            ["setting", *heads],
            [
                _defense_row(results, "methods", "splic", "the defaults"),
                *(
                    _defense_row(results, "sweeps", name, Cell(name, code=True))
                    for name in _names(results, "sweeps")
                ),
            ],
        ),
        "votes_table": make_table(
            "The mean of the logits of several draws",
            ["defence", "draws", *heads[:3]],
            [
                row
                for name in _names(results, "voted")
                for row in (
                    _with_draws(results, "methods", name, "one"),
                    _with_draws(
                        results,
                        "voted",
                        name,
                        results.show(f"{_SMALL}#/votes", "integer"),
                    ),
                )
            ],
            labels=1,
        ),
    }


def _with_draws(results: Results, part: str, name: str, draws: Any) -> list[Any]:
    title, *cells = _defense_row(results, part, name, defense_title(name))
    return [title, draws, *cells[:3]]


def _sweeps(results: Results, count: str) -> list[str]:
    """A plot for each setting that is a number."""
    figures = []
    side = results.value(f"{_SMALL}#/network/training_set/image_shape/0")
    for field, words, default, even in (
        ("rank", "rank r", side // 4, False),
        ("tv_weight", "weight \N{GREEK SMALL LETTER LAMDA}", None, True),
        ("keep_probability", "keep probability p", None, False),
    ):
        found = {
            float(name.partition("=")[2]): ("sweeps", name)
            for name in _names(results, "sweeps")
            if name.startswith(f"{field}=")
        }
        if not found:
            continue
        value = results.record(_SMALL)["settings"]["splic"][field]
        found[float(default if value is None else value)] = ("methods", "splic")
        positions = sorted(found)
        series = [
            Series(
                title,
                [point(results, _three(results, *found[x])[attack]) for x in positions],
            )
            for title, attack in (("clean", "none"), ("PGD, gray-box", "PGD-7"))
        ]
        quantity = f"accuracy, % ({count} images)"
        alt = (
            f"Accuracy without attack and under PGD against the {words}, with interval"
        )
        svg = plots.curves(positions, series, words, quantity, even=even)
        figures.append(Markup(plots.with_name(svg, f"sweep-{field}", alt)))
    return figures
