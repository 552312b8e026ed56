"""The paper's tables and figures by name, and what is missing of them done."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from train.evaluation.cells import describe
from train.evaluation.plan import attack_words
from train.flags import require_known
from train.networks.classifier import Classifier
from train.records import provenance
from train.records.storing import record_of, require_same, write_record
from train.reproductions.choice import CHOICE
from train.reproductions.networks import VANILLA
from train.reproductions.pictures import FIGURES, OF_FEATURES
from train.reproductions.plan import Item
from train.reproductions.scales import SCALES, Scale
from train.reproductions.sweeps import SWEEPS
from train.reproductions.tables import TABLES
from train.reproductions.workshop import Workshop
from train.training.checkpoints import dataset_checksum
from train.utils.errors import UserError

FORMAT = 1
DATASETS = ("shapes", "cifar10", "svhn_cropped")  # the paper's, and what is drawn
# The most valuable first: what a run that is cut short has done.
ITEMS: Mapping[str, Item] = {
    **TABLES,
    **dict(sorted({**SWEEPS, **FIGURES}.items(), key=lambda item: int(item[0][6:]))),
    **CHOICE,
}


def chosen(
    only: Sequence[str] | None,
    scale: str,
    dataset: str | None,
    given: Classifier | None = None,
    surrogate: Classifier | None = None,
) -> tuple[list[str], Scale, str]:
    """What the flags ask for: the items, the scale and the data set.

    A network that is given has no features to be looked at: an item that shows them is
    left out.

    Raises:
        UserError: for a name that there is not, or what the network cannot stand for.
    """
    if given and given.defense:
        raise UserError(
            f"{given.name} was trained on transformed images; what stands for Vanilla "
            "is a network for images as they are"
        )
    if surrogate and surrogate.defense:
        raise UserError(f"{surrogate.name} takes transformed images; give another")
    items = [name for name in ITEMS if not (given and name in OF_FEATURES)]
    names = items if only is None else list(dict.fromkeys(only))
    require_known("--only", names, items)
    require_known("--scale", [scale], SCALES)
    if SCALES[scale].starts_from_given and not (given and given.split):
        raise UserError(
            f"--scale={scale} fine-tunes a network; give --weights, such as those of a "
            f"published {SCALES[scale].model} (docs/networks.md)"
        )
    dataset = dataset or ("shapes" if scale == "smoke" else "cifar10")
    require_known("--dataset", [dataset], DATASETS)
    return names, SCALES[scale], dataset


def run(names: Sequence[str], workshop: Workshop) -> None:
    """Does what is missing of some items.

    Raises:
        UserError: if the folder holds another reproduction, or cannot be written.
    """
    inputs, folder = inputs_of(workshop), workshop.folder
    accuracy = workshop.clean_accuracy  # refuses a network before anything is done
    if accuracy:
        workshop.progress.line(
            f"network '{VANILLA}': {workshop.given.name}, right on "
            f"{accuracy['accuracy']:.1%} of {accuracy['count']} clean images"
        )
    for name in ITEMS:
        path = folder / f"{name}.json"
        found = record_of(path, inputs)
        if found:  # where none was given there is no such entry
            both = (
                {name: values.get(name) for name in ("given", "surrogate")}
                for values in (found, inputs)
            )
            require_same(path, *both)
        for cell in found.get("cells", []):
            workshop.remember(cell)
    workshop.progress.line(
        f"scale {workshop.scale.name} on {workshop.dataset_name}, into {folder}: "
        f"{workshop.scale.about}"
    )
    for name in names:
        try:
            reproduce(name, workshop, inputs)
        except OSError as error:
            raise UserError(
                f"cannot write {error.filename or folder}: "
                f"{error.strerror or error}; choose another --out"
            ) from error


def reproduce(name: str, workshop: Workshop, inputs: Mapping[str, Any]) -> None:
    """Does what is missing of an item."""
    item, scale, progress = ITEMS[name], workshop.scale, workshop.progress
    path = workshop.folder / f"{name}.json"
    found = record_of(path, inputs)
    wanted = list(item.cells(scale))
    outputs = [path.with_suffix(suffix) for suffix in item.suffixes]
    if is_finished(found, workshop, wanted) and all(file.exists() for file in outputs):
        progress.line(f"{name} is done already")
        return
    progress.line(f"{name}: {item.title}")
    record = {
        "item": name,
        "title": item.title,
        "provenance": provenance.provenance(),
        **inputs,
        "networks": {
            network: workshop.network_record(network) for network in item.needs(scale)
        },
        **({"clean_accuracy": x} if (x := workshop.clean_accuracy) else {}),
        "finished": False,
    }
    cells = []
    for each in wanted:
        cell, new = workshop.measure(each)
        cells.append(cell)
        if new:
            progress.line(f"{name}: {each.row}, {each.column}: {describe(cell)}")
            write_record(path, {**record, "cells": cells})
    record |= item.finish(workshop, cells, path.with_suffix(""))
    write_record(path, {**record, "finished": True, "cells": cells})
    progress.line(f"{name}: {', '.join(str(file) for file in [path, *outputs])}")


def inputs_of(workshop: Workshop) -> dict[str, Any]:
    """What all items of a reproduction have in common, for the record."""
    test, training = workshop.whole_test, workshop.training
    values = {
        "format": FORMAT,
        "scale": dataclasses.asdict(workshop.scale),
        "dataset": {
            "name": test.name,
            "count": len(test.images),
            "images": workshop.images_note,
            "sha256": dataset_checksum(test),
            "num_train": len(training.images),
            "train_sha256": dataset_checksum(training),
        },
        "seed": workshop.seed,
        "platform": jax.default_backend(),
        **({"given": dict(workshop.given.record)} if workshop.given else {}),
        **({"surrogate": dict(x.record)} if (x := workshop.surrogate) else {}),
    }
    return json.loads(json.dumps(values))


def is_finished(
    record: Mapping[str, Any], workshop: Workshop, wanted: Sequence[Any]
) -> bool:
    """Whether a record is complete and holds exactly the cells wanted, in order."""
    if not record.get("finished"):
        return False
    found = [(c["row"], c["column"], c["identity"]) for c in record["cells"]]
    return found == [(w.row, w.column, workshop.identity(w)) for w in wanted]


def planned(names: Sequence[str], workshop: Workshop) -> str:
    """The networks and the cells of some items, a line each."""
    scale, lines = workshop.scale, ["networks to train:"]
    networks = dict.fromkeys(n for name in names for n in ITEMS[name].needs(scale))
    for network in networks:
        if given := workshop.given_as(network):
            lines.append(f"  {network}: none, but {given.name}")
            continue
        settings = workshop.training_settings(network).as_dict()
        defense = settings["defense"]
        lines.append(
            f"  {network}: {settings['model']}, {settings['epochs']} epochs, images "
            f"{defense['method'] if defense else 'as they are'}, recipe "
            f"{settings['adversarial']['recipe']}"
        )
    for name in names:
        lines.append(f"{name}: {ITEMS[name].title}")
        for each in ITEMS[name].cells(scale):
            attack = scale.attacks().get(each.attack)
            words = attack_words(each.threat, each.config, attack)
            lines.append(
                f"  {each.row}, {each.column}: network {each.network}, defense "
                f"{each.defense}, {each.threat}, {words}"
            )
    return "\n".join(lines)
