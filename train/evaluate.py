"""Measures a trained classifier, bare and behind SPLIC, clean and under attack.

    python -m train.evaluate --checkpoint=out/train --out=out/evaluation.json

Prints a table and writes the same as JSON, cell by cell: an interrupted run goes on
with the first cell that is missing. See `train.evaluation` for who knows what.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table
from absl import flags

from splic_jax import SPLICConfig
from train import checkpoints, compilation, errors, evaluation, models, provenance
from train import flags as shared_flags
from train.errors import UserError
from train.evaluation import AttackSettings
from train.files import write_whole
from train.progress import Progress

FLAGS = flags.FLAGS
FORMAT = 1
DEFENSES = ("none", "splic", "srf")


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    shared_flags.define_splic_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    flags.DEFINE_string("checkpoint", None, "folder of a training run", required=True)
    flags.DEFINE_list(
        "defenses",
        ["none", "splic"],
        "what stands before the network, of none, splic, and srf (splic without TV)",
    )
    flags.DEFINE_list(
        "threats",
        list(evaluation.THREATS),
        "of clean, black-box (with --surrogate), gray-box and white-box",
    )
    flags.DEFINE_string(
        "surrogate",
        None,
        "folder of the training run that a black-box attacker attacks instead",
    )
    default = AttackSettings()
    flags.DEFINE_float("epsilon", default.epsilon * 255, "radius, in 1/255")
    flags.DEFINE_float("attack_step", default.step_size * 255, "step, in 1/255")
    flags.DEFINE_integer(
        "attack_steps", default.steps, "gradient steps of PGD", lower_bound=0
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "of the attack's start and the masks",
        lower_bound=0,
        upper_bound=2**31 - 1,
    )
    flags.DEFINE_enum(
        "split", "test", ["test", "cue_conflict"], "which images (shapes has both)"
    )
    flags.DEFINE_string("out", "out/evaluation.json", "JSON file for the results")
    compilation.define_flag("`compiled` beside --out")
    flags.adopt_module_key_flags(compilation)


def defenses_from_flags(
    names: Sequence[str], trained_with: SPLICConfig | None
) -> dict[str, SPLICConfig | None]:
    """Name to settings, in the order asked for.

    Settings of SPLIC that no flag gives are those the network was trained with, or the
    defaults.

    Raises:
        UserError: for an unknown name, or SPLIC settings that make no sense.
    """
    splic = shared_flags.splic_config_from_flags(trained_with or SPLICConfig())
    known = {
        "none": None,
        "splic": splic,
        "srf": dataclasses.replace(splic, tv_weight=0.0),
    }
    _require_known("--defenses", names, DEFENSES)
    return {name: known[name] for name in names}


def network_record(loaded: checkpoints.LoadedModel) -> dict[str, Any]:
    """What a network was trained with and on, for the record."""
    weights = hashlib.sha256()
    for leaf in jax.tree.leaves(loaded.variables):
        weights.update(np.ascontiguousarray(leaf))
    return {
        "settings": dataclasses.asdict(loaded.settings),
        "training_set": dict(loaded.dataset),
        "weights_sha256": weights.hexdigest(),
    }


def _require_known(flag: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{flag} has {name!r}; choose from {', '.join(known)}")
    if not names:
        raise UserError(f"{flag} is empty; choose from {', '.join(known)}")


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes JSON so that the file is whole or as it was before."""
    try:
        write_whole(path, (json.dumps(values, indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def results_of(
    path: pathlib.Path, inputs: Mapping[str, Any], name: str = "networks"
) -> Any:
    """What an earlier run with the same inputs left in `path` under `name`, or {}."""
    try:
        found = json.loads(path.read_text())
        if all(found[key] == value for key, value in inputs.items()):
            return found[name]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}


def by_name(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Any]:
    """Cells by defence and threat."""
    return {(cell["defense"], cell["threat"]): cell for cell in cells}


def table(
    title: str, cells: Sequence[Mapping[str, Any]], attack: AttackSettings
) -> rich.table.Table:
    """The cells as a table for the terminal."""
    grid = rich.table.Table(
        title=title,
        title_justify="left",
        caption=f"{evaluation.describe_attack(attack)}; white-box through the defence "
        "by BPDA",
        caption_justify="left",
    )
    for heading in ("defence", "threat"):
        grid.add_column(heading)
    for heading in ("images", "accuracy", "95 % interval", "PSNR, dB"):
        grid.add_column(heading, justify="right")
    for cell in cells:
        low, high = cell["accuracy_interval"]
        psnr = cell["psnr_db"]
        grid.add_row(
            cell["defense"],
            cell["threat"],
            str(cell["count"]),
            f"{cell['accuracy']:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{psnr['mean']:.2f}" if psnr else "-",
        )
    return grid


def main(argv: Sequence[str]) -> None:
    del argv
    compilation.keep(pathlib.Path(FLAGS.out).parent / "compiled")
    loaded = checkpoints.load_checkpoint(FLAGS.checkpoint)
    defenses = defenses_from_flags(FLAGS.defenses, loaded.settings.defense)
    _require_known("--threats", FLAGS.threats, evaluation.THREATS)
    surrogate = FLAGS.surrogate and checkpoints.load_checkpoint(FLAGS.surrogate)
    if not (0 <= FLAGS.epsilon < math.inf and 0 < FLAGS.attack_step < math.inf):
        raise UserError("--epsilon must be 0 or more, and --attack_step above 0")
    if "black-box" in FLAGS.threats and FLAGS["threats"].present and not surrogate:
        raise UserError("--threats=black-box needs --surrogate, the network to attack")
    attack = AttackSettings(
        FLAGS.epsilon / 255, FLAGS.attack_step / 255, FLAGS.attack_steps
    )
    dataset = shared_flags.dataset_from_flags(FLAGS.split)
    for path, network in ((FLAGS.checkpoint, loaded), (FLAGS.surrogate, surrogate)):
        if network and network.class_names != dataset.class_names:
            raise UserError(
                f"{path} was trained on {network.dataset['name']}, not "
                f"{dataset.name}; give --dataset={network.dataset['name']}"
            )
    for config in defenses.values():
        if config:
            shared_flags.require_rank(config, dataset.images.shape[1:])
    inputs = {
        "format": FORMAT,
        "dataset": {
            "name": dataset.name,
            "split": FLAGS.split,
            "count": len(dataset.images),
            "sha256": checkpoints.dataset_checksum(dataset),
        },
        "network": network_record(loaded),
        "surrogate": surrogate and network_record(surrogate),
        "defenses": {
            name: config and dataclasses.asdict(config)
            for name, config in defenses.items()
        },
        "attack": dataclasses.asdict(attack),
        "seed": FLAGS.seed,
    }
    inputs = json.loads(json.dumps(inputs))
    path = pathlib.Path(FLAGS.out)
    record = {"provenance": provenance.provenance(), **inputs}
    progress = Progress()
    progress.line(
        f"evaluating {FLAGS.checkpoint} on {len(dataset.images)} images of "
        f"{dataset.name}, into {path}"
    )
    done = by_name(results_of(path, inputs, "cells"))
    if done:
        progress.line(f"{len(done)} cells are done from before")
    cells = evaluation.evaluate(
        models.logits_function(loaded.graphdef, loaded.variables),
        dataset,
        defenses,
        threats=tuple(FLAGS.threats),
        attack=attack,
        seed=FLAGS.seed,
        surrogate=surrogate
        and models.logits_function(surrogate.graphdef, surrogate.variables),
        progress=progress,
        done=done,
        store=lambda cells: write_json(path, {**record, "cells": cells}),
    )
    if not cells:
        raise UserError(
            "nothing to measure: without a defence gray-box is white-box; give others "
            "of --threats or --defenses"
        )
    comparisons = [
        row
        for other in ("none", "srf")
        for row in evaluation.compare(cells, "splic", other)
    ]
    if len(done) < len(cells):  # else the file stays as it was measured
        write_json(path, {**record, "cells": cells, "comparisons": comparisons})
    trained_with = "SPLIC" if loaded.settings.defense else "no defence"
    title = f"{dataset.name}, network trained with {trained_with}"
    rich.console.Console().print(table(title, cells, attack))
    for row in comparisons:
        gap = row["psnr_difference_db"]
        if row["other"] == "srf" and gap:
            progress.line(
                f"{row['threat']}: TV changes the PSNR by {gap['mean']:+.2f} dB "
                f"(+- {gap['half_width']:.2f}, 95 %, paired)"
            )


if __name__ == "__main__":
    define_flags()
    errors.run(main)
