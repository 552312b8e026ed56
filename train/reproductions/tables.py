"""Tables 1 to 4."""

import functools
from collections.abc import Mapping, Sequence

from splic_jax import method_of
from splic_jax.transforms import as_dict
from train.reproductions.cells import Wanted
from train.reproductions.comparison import write_table
from train.reproductions.networks import ROWS, UNTRAINED, VANILLA, config_of, rows_of
from train.reproductions.plan import Item
from train.reproductions.scales import Scale
from train.threats.attackers import applies

COLUMNS = {"Clean": None, "FGSM": "fgsm", "PGD": "pgd", "CW": "cw"}
ADAPTIVE = {"EOT": "eot", "gradient EOT": "gradient-eot"}


def cell(
    row: str,
    column: str,
    network: str,
    defense: str | None,
    threat: str,
    attack: str | None,
) -> Wanted:
    """A cell with a transform's default settings; "clean" where nothing attacks."""
    threat = threat if attack else "clean"
    config = config_of(defense)
    return Wanted(row, column, network, defense or "none", config, threat, attack)


def black_box(scale: Scale) -> Sequence[Wanted]:
    """Table 1: transfer from a surrogate of another seed and architecture."""
    return [
        cell(row, column, *ROWS[row], "black-box", attack)
        for row in rows_of(scale)
        if row != "TV Minimization"
        for column, attack in COLUMNS.items()
    ]


def white_box(scale: Scale) -> Sequence[Wanted]:
    """Table 2, with columns that the paper lacks: attacks that know of the draws.

    A network without a defence has nothing to average over; it meets a longer PGD.
    """
    wanted = []
    for row in rows_of(scale):
        if row == "Thermometer":
            continue
        config = config_of(ROWS[row].defense)
        wanted.append(cell(row, "Clean", *ROWS[row], "white-box", None))
        wanted.append(cell(row, "BPDA", *ROWS[row], "white-box", "pgd"))
        if config is None and scale.long_pgd:
            wanted.append(cell(row, "PGD-100", *ROWS[row], "white-box", "pgd-100"))
        if scale.adaptive is not None and row not in scale.adaptive:
            continue
        wanted += [
            cell(row, column, *ROWS[row], "adaptive", attack)
            for column, attack in ADAPTIVE.items()
            if config is not None
            and method_of(config).random
            and applies("adaptive", attack, scale.attacks()[attack], config)
        ]
    return wanted


def gray_box(
    rows: Sequence[str], columns: Mapping[str, str | None], scale: Scale
) -> Sequence[Wanted]:
    """Tables 3 and 4: before a network trained on images as they are."""
    del scale
    return [
        Wanted(
            row,
            column,
            VANILLA,
            as_dict(UNTRAINED[row])["method"],
            UNTRAINED[row],
            "gray-box" if attack else "clean",
            attack,
        )
        for row in rows
        for column, attack in columns.items()
    ]


TABLES: Mapping[str, Item] = {
    "table3": Item(
        "gray-box attacks, without retraining (section 3.8.3)",
        functools.partial(
            gray_box,
            (
                "USVT",
                "Soft-Imp",
                "ME-Net",
                "SPLIC",
                "SPLIC, lambda as printed",
                "TV minimisation",
                "JPEG",
            ),
            {name: COLUMNS[name] for name in ("Clean", "FGSM", "PGD")},
        ),
        functools.partial(write_table, 3),
        (".md",),
    ),
    "table2": Item(
        "white-box attacks, and adaptive ones beside (section 3.8.2)",
        white_box,
        functools.partial(write_table, 2),
        (".md",),
    ),
    "table1": Item(
        "black-box attacks (section 3.8.1)",
        black_box,
        functools.partial(write_table, 1),
        (".md",),
    ),
    "table4": Item(
        "SRF and SPLIC, gray-box, without retraining (section 3.9.5)",
        functools.partial(gray_box, ("SRF", "SPLIC"), COLUMNS),
        functools.partial(write_table, 4),
        (".md",),
    ),
}
