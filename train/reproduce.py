"""Reruns the paper: Tables 1 to 4 and figures 3 to 12, each by name.

    python -m train.reproduce --scale=smoke
    python -m train.reproduce --only=table3,figure6 --scale=small --data_dir=DIR
    python -m train.reproduce --list

Each item leaves `<item>.json` in --out, and Markdown or figures beside it. Networks are
trained once for all items. An interrupted run goes on with the network and the cell at
which it stopped; what is measured is not measured again.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags

from train import compilation, data, errors, provenance
from train.checkpoints import dataset_checksum
from train.errors import UserError
from train.evaluate import write_json
from train.evaluation import attack_words, describe
from train.progress import Progress
from train.records import record_of
from train.reproductions.networks import settings_of
from train.reproductions.pictures import FIGURES
from train.reproductions.plan import Item
from train.reproductions.scales import SCALES, Scale
from train.reproductions.sweeps import SWEEPS
from train.reproductions.tables import TABLES
from train.reproductions.workshop import Workshop

FLAGS = flags.FLAGS
FORMAT = 1
# The most valuable first: what a run that is cut short has done.
ITEMS: Mapping[str, Item] = {
    **TABLES,
    **dict(sorted({**SWEEPS, **FIGURES}.items(), key=lambda item: int(item[0][6:]))),
}


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_list("only", None, "items to do, by the names of --list; default all")
    flags.DEFINE_string("scale", "smoke", f"how large: {', '.join(SCALES)}")
    flags.DEFINE_string(
        "dataset",
        None,
        f"the images: {', '.join(data.SPLITS)}; default shapes at --scale=smoke, else "
        "cifar10",
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "folder with the data set's files as its authors publish them; without it "
        "cifar10 and svhn_cropped are downloaded (shapes needs neither)",
    )
    flags.DEFINE_string("out", "out/reproduce", "folder for everything it writes")
    flags.DEFINE_integer(
        "seed",
        0,
        "of the weights, the attacks and the masks",
        lower_bound=0,
        upper_bound=2**31 - 2,
    )
    flags.DEFINE_bool("list", False, "print the items there are, and stop")
    flags.DEFINE_bool("dry_run", False, "list the networks and the cells, and stop")
    compilation.define_flag("`compiled` in --out")
    flags.adopt_module_key_flags(compilation)  # list it under --help too


def main(argv: Sequence[str]) -> None:
    del argv
    if FLAGS.list:
        for name, item in ITEMS.items():
            print(f"{name}: {item.title}")
        return
    names, scale, dataset = chosen(FLAGS.only, FLAGS.scale, FLAGS.dataset)
    if FLAGS.dry_run:
        print(planned(names, scale, FLAGS.seed))
        return
    if scale.name == "smoke":
        # Each core is a device else, and compiles anew what takes no time to run.
        jax.config.update("jax_num_cpu_devices", 1)
    folder, progress = pathlib.Path(FLAGS.out), Progress()
    compilation.keep(folder / "compiled")
    workshop = Workshop(scale, dataset, FLAGS.data_dir, folder, FLAGS.seed, progress)
    inputs = inputs_of(workshop)
    for name in ITEMS:
        for cell in record_of(folder / f"{name}.json", inputs).get("cells", []):
            workshop.remember(cell)
    progress.line(f"scale {scale.name} on {dataset}, into {folder}: {scale.about}")
    for name in names:
        try:
            reproduce(name, workshop, inputs)
        except OSError as error:
            raise UserError(
                f"cannot write {error.filename or folder}: "
                f"{error.strerror or error}; choose another --out"
            ) from error


def chosen(
    only: Sequence[str] | None, scale: str, dataset: str | None
) -> tuple[list[str], Scale, str]:
    """What the flags ask for: the items, the scale and the data set.

    Raises:
        UserError: for a name that there is not.
    """
    names = list(ITEMS) if only is None else list(dict.fromkeys(only))
    for name in names:
        _require_known("--only", name, ITEMS)
    if not names:
        raise UserError(f"--only is empty; choose from {', '.join(ITEMS)}")
    _require_known("--scale", scale, SCALES)
    dataset = dataset or ("shapes" if scale == "smoke" else "cifar10")
    _require_known("--dataset", dataset, data.SPLITS)
    return names, SCALES[scale], dataset


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
            network: settings_of(network, scale, workshop.seed).as_dict()
            for network in item.needs(scale)
        },
        "finished": False,
    }
    cells = []
    for each in wanted:
        cell, new = workshop.measure(each)
        cells.append(cell)
        if new:
            progress.line(f"{name}: {each.row}, {each.column}: {describe(cell)}")
            write_json(path, {**record, "cells": cells})
    record |= item.finish(workshop, cells, path.with_suffix(""))
    write_json(path, {**record, "finished": True, "cells": cells})
    progress.line(f"{name}: {', '.join(str(file) for file in [path, *outputs])}")


def inputs_of(workshop: Workshop) -> dict[str, Any]:
    """What all items of a reproduction have in common, for the record."""
    test, training = workshop.test, workshop.training
    values = {
        "format": FORMAT,
        "scale": dataclasses.asdict(workshop.scale),
        "dataset": {
            "name": test.name,
            "count": len(test.images),
            "sha256": dataset_checksum(test),
            "num_train": len(training.images),
            "train_sha256": dataset_checksum(training),
        },
        "seed": workshop.seed,
        "platform": jax.default_backend(),
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


def planned(names: Sequence[str], scale: Scale, seed: int) -> str:
    """The networks and the cells of some items, a line each."""
    lines = ["networks to train:"]
    networks = dict.fromkeys(n for name in names for n in ITEMS[name].needs(scale))
    for network in networks:
        settings = settings_of(network, scale, seed).as_dict()
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


def _require_known(flag: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise UserError(f"{flag} has {name!r}; choose from {', '.join(known)}")


if __name__ == "__main__":
    define_flags()
    errors.run(main)
