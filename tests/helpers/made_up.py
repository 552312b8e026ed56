"""Made-up results, as the programs write them, of every kind that a page reads."""

import json

from splic_jax.transforms import as_dict
from train.evaluation.cells import Cell
from train.records.printed import printed_values
from train.reproductions import choice
from train.reproductions.comparison import compare
from train.reproductions.run import ITEMS
from train.reproductions.scales import SCALES

WORKSTATION = SCALES["workstation"]
# By the network given: the items, and the name of a file where each has its own.
REPRODUCED = {
    "resnet56": (
        *("table3", "table4", "figure3", "figure6", "figure11", "figure12"),
        "choice_resnet56",
        "choice_adaptive_resnet56",
    ),
    "resnet20": ("table1", "table2", "figure7", "figure9", "choice_resnet20"),
}


def cell(defense, threat, attack, correct, psnr=None, count=128):
    share = correct / count
    return {
        "threat": threat,
        "attack": attack,
        "defense": defense,
        "count": count,
        "correct": correct,
        "accuracy": share,
        "accuracy_interval": [0.9 * share, min(1, 1.1 * share)],
        "psnr_db": psnr and {"mean": psnr, "half_width": 0.25},
    }


PGD = "PGD-7, L-inf 8/255, step 2/255"
PUBLISHED = {"model": "resnet56", "weights_sha256": "5" * 64}
TRAINED = {
    "settings": {"model": "resnet20", "epochs": 3, "defense": {"method": "splic"}},
    "training_set": {"num_train": 2000, "image_shape": [32, 32, 3]},
}
FACTS = {
    "command": "python -m train.reproduce --a=<b> --c",
    "date": "2026-01-02",
    "commit": "0a1b2c3d4e5f",
    "hardware": "a machine",
    "versions": {"python": "3.11", "jax": "1.2.3", "jaxlib": "1.2.3"},
}


def results():
    """Small files of results by name: those that the pages and the report read."""
    base = {"provenance": FACTS, "seed": 0}
    count = {"name": "shapes", "count": 128}
    bare = [
        cell("none", "clean", "none", 100),
        cell("none", "white-box", PGD, 4),
        cell("splic", "clean", "none", 82, 23.0),
        cell("splic", "gray-box", PGD, 36, 22.0),
        cell("splic", "white-box", f"BPDA ({PGD})", 34, 22.0),
    ]
    splic = [*bare, cell("splic", "black-box", PGD, 63, 22.0)]
    finding = {"check": "random", "tripped": True, "sentence": "It <differs>."}
    real = {**base, "dataset": {"name": "cifar10", "count": 128}}
    files = {
        "quickstart.json": {
            **base,
            "dataset": count,
            "training": {"bare": {"num_train": 2000, "epochs": 3}},
            "attack": {"steps": 7, "epsilon": 8 / 255},
            "networks": {"bare": bare, "splic": splic},
        },
        "adaptive.json": {
            **real,
            "network": TRAINED,
            "epsilon": 8 / 255,
            "budget": 100,
            "evaluations": 10,
            "rows": [
                {
                    "attack": name,
                    "steps": steps,
                    "masks_a_step": steps and 5,
                    "accuracy": {"mean": mean, "half_width": 0.0312},
                    "majority": mean,
                }
                for name, steps, mean in (
                    ("no attack", None, 0.5),
                    ("network alone", 100, 0.25),
                    ("BPDA + EOT", 20, 0.0406),
                )
            ],
        },
        **{
            f"cue_conflict_{name}.json": {
                **base,
                "dataset": count,
                "cells": bare[::2],
                "soundness": {"splic": [finding, {**finding, "tripped": False}]},
            }
            for name in ("bare", "splic")
        },
        "defenses.json": {
            **real,
            "network": PUBLISHED,
            "attacks": {"pgd": {"epsilon": 8 / 255}},
            "votes": 10,
            "settings": {
                "splic": {"rank": None, "tv_weight": 0.02, "keep_probability": 0.5}
            },
            "bare": three("none", "white-box"),
            "methods": [*three("splic"), *three("usvt"), *three("jpeg")],
            "sweeps": [*three("rank=2"), *three("tv_weight=0.0")],
            "voted": three("splic"),
            "costs": [
                {"defense": "splic", "seconds": 0.0061, "ratio_to_splic": 1.0},
                {"defense": "usvt", "seconds": 0.003, "ratio_to_splic": 0.49},
            ],
        },
    }
    for network, names in REPRODUCED.items():
        for name in names:
            item = name.removesuffix(f"_{network}")
            files[f"reproduction/{name}.json"] = reproduction(item, network)
    views = {
        view: {
            "psnr_db": None if view == "clean" else 31.5,
            "top": {
                name: [
                    {"class": kind, "probability": share}
                    for kind, share in (("<i>", 0.6), ("ring", 0.3), ("leaf", 0.1))
                ]
                for name in ("bare", "splic")
            },
        }
        for view in ("clean", "attacked", "purified")
    }
    files["samples.json"] = {
        **base,
        "dataset": count,
        "attack": {"words": PGD},
        "views": list(views),
        "grid": {"keep_probability": [0.5], "rank": [2, 8], "tv_weight": [0.02]},
        "explored": 1,
        "rows_an_image": 1,
        "images": [{"index": i, "label": "<i>", "views": views} for i in range(2)],
        "explorer": [
            {
                "keep_probability": 0.5,
                "rank": rank,
                "tv_weight": 0.02,
                "images": [{"psnr_db": 20.25, "class": "<i>", "probability": 0.5}],
            }
            for rank in (2, 8)
        ],
    }
    return files


def three(name, threat="gray-box"):
    return [
        cell(name, "clean", "none", 80, 25.0),
        cell(name, threat, "FGSM, L-inf 8/255", 40, 22.0),
        cell(name, threat, PGD, 20, 22.0),
    ]


def reproduction(item, network):
    """A finished record of `reproduce`; its accuracies are arbitrary."""
    given = {**PUBLISHED, "model": network}
    wanted = ITEMS[item].cells(WORKSTATION)
    cells = [placed(one, i) for i, one in enumerate(wanted)]
    record = {
        "item": item,
        "title": ITEMS[item].title,
        "provenance": FACTS,
        "format": 1,
        "scale": {
            name: getattr(WORKSTATION, name)
            for name in ("name", "about", "model", "num_train", "num_test", "epochs")
        },
        "dataset": {
            "name": "cifar10",
            "count": 12,
            "sha256": "1" * 64,
            "num_train": 50,
            "train_sha256": "2" * 64,
        },
        "seed": 0,
        "platform": "cpu",
        "networks": {"vanilla": given},
        "given": given,
        "clean_accuracy": {"count": 8, "correct": 7, "accuracy": 0.875},
        "finished": True,
        "cells": cells,
    }
    if item.startswith("table"):
        printed = printed_values(int(item[-1]), "cifar10")
        places = ((cell, (cell["row"], cell["column"])) for cell in cells)
        record["comparison"] = [compare(cell, printed.get(at)) for cell, at in places]
    if item == "figure3":
        rows = ("clean", "attacked", "attacked,\nthen purified")
        right = [[1, 2, 3], [0, 0, 0], [1, 2, 0]]
        record |= {"labels": [1, 2, 3], "attack": PGD, "network": "vanilla"}
        record["predicted"] = dict(zip(rows, right, strict=True))
    if item == "figure12":
        record["splic_minus_srf_db"] = {"Clean": {"mean": 0.25, "half_width": 0.1}}
    if item == "choice":
        record |= sweep(cells)
    return record


def placed(wanted, number):
    """A cell of eight images at its place in a table."""
    attack = wanted.attack and WORKSTATION.attacks()[wanted.attack]
    cell = Cell(
        wanted.threat,
        attack.words() if attack else "none",
        attack,
        wanted.defense,
        tuple(i < number % 9 for i in range(8)),
        (20.0 + number % 7,) * 8,
        queries=1 if attack else 0,
    ).summary()
    identity = {
        "network": wanted.network,
        "defense_settings": wanted.config and as_dict(wanted.config),
        "threat": wanted.threat,
        "attack_settings": cell["attack_settings"],
        "count": 8,
    }
    place = {"row": wanted.row, "column": wanted.column, "identity": identity}
    return cell | place


def sweep(cells):
    """What `choice` adds to its cells."""
    answers = choice.answers_of(cells)
    rows = []
    for number, variant in enumerate(choice.VARIANTS.values()):
        found = answers[variant.name]
        rows.append(
            {
                "group": variant.group,
                "row": variant.name,
                "candidate": variant.candidate,
                "score_where_chosen": choice.score(found, slice(2)),
                "psnr_where_chosen": 20.0 + number % 5,
                "held_out": {
                    column: choice.accuracy_of(given[2:])
                    for column, given in found.items()
                },
                "perturbation_left": {"mean": 1 / (1 + number), "half_width": 0.01},
                "change_of_clean": {"mean": 1.0, "half_width": 0.1},
            }
        )
    return {"criterion": choice.CRITERION, "chosen_on": 2, "rows": rows}


def write(folder, files):
    """Writes records below a folder."""
    for name, record in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))
