"""Measures a trained classifier, bare and behind defences, clean and under attack.

    python -m train.evaluate --checkpoint=out/train --out=out/evaluation.json
    python -m train.evaluate --list      # the defences there are

Prints a table and writes the same as JSON, cell by cell: an interrupted run goes on
with the first cell that is missing. One with other settings is refused, not written
over the first. See `train.evaluation` for who knows what.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
from absl import flags

from attacks import check_classifier
from splic_jax import METHODS, SPLICConfig, method_of
from splic_jax.transforms import (
    RENAMED,
    TransformConfig,
    as_dict,
    fitted,
    returns_images,
)
from train import (
    attackers,
    checkpoints,
    compilation,
    data,
    errors,
    evaluation,
    models,
    planning,
    provenance,
    records,
)
from train import flags as shared_flags
from train.attacked_images import AttackedImages
from train.attackers import ATTACKS_OF, PRESETS, AttackSettings
from train.errors import UserError
from train.files import write_whole
from train.progress import Progress

FLAGS = flags.FLAGS
FORMAT = 2
CHECKED_IMAGES = 32
DEFENSES = ("none", *METHODS)


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    shared_flags.define_splic_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    flags.DEFINE_bool("list", False, "print the defences there are, and stop")
    flags.DEFINE_string("checkpoint", None, "folder of a training run")
    flags.DEFINE_list(
        "defenses",
        None,
        "what stands before the network: none, names that --list prints, or all that "
        "fit the network; "
        "default none and what the network was trained with, or else splic",
    )
    shared_flags.define_option_flag()
    flags.DEFINE_integer(
        "votes",
        1,
        "draws of a random defence that decide together about an image",
        lower_bound=1,
    )
    flags.DEFINE_enum(
        "vote",
        "logits",
        ["logits", "majority"],
        "how they decide: by the mean of the logits, or one draw one vote",
    )
    flags.DEFINE_list(
        "threats",
        list(evaluation.THREATS),
        f"of {', '.join(evaluation.THREATS)}; black-box needs --surrogate",
    )
    flags.DEFINE_string(
        "surrogate",
        None,
        "folder of the training run that a black-box attacker attacks instead",
    )
    flags.DEFINE_list(
        "attacks",
        ["pgd"],
        f"of {', '.join(PRESETS)}; a threat takes those that are its own: "
        + "; ".join(f"{t} {', '.join(a)}" for t, a in ATTACKS_OF.items() if a),
    )
    default = AttackSettings()
    flags.DEFINE_float("epsilon", default.epsilon * 255, "radius, in 1/255")
    flags.DEFINE_float("attack_step", default.step_size * 255, "step of pgd, in 1/255")
    flags.DEFINE_integer(
        "attack_steps", default.steps, "gradient steps of pgd", lower_bound=0
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
    flags.DEFINE_bool(
        "soundness", True, "look for signs that the numbers flatter (docs/protocol.md)"
    )
    flags.DEFINE_string(
        "save_attacked",
        None,
        "folder for the attacked images, as PNG files and .npz; they are rounded to "
        "8 bits first, and judged as they are written (docs/attacks.md)",
    )
    flags.DEFINE_bool("dry_run", False, "list the cells with an estimate, and stop")
    flags.DEFINE_string("out", "out/evaluation.json", "JSON file for the results")
    compilation.define_flag("`compiled` beside --out")
    flags.adopt_module_key_flags(compilation)


def defenses_from_flags(
    names: Sequence[str] | None, trained_with: TransformConfig | None
) -> dict[str, TransformConfig | None]:
    """Name to settings, in the order asked for; None for "none".

    Settings that no flag gives are those the network was trained with, where it was
    with that method, or the defaults.

    Args:
        names: as --defenses has them.
        trained_with: settings of the transform the network was trained with, or None.

    Raises:
        UserError: for an unknown name, or settings that make no sense.
    """
    if names is None:
        trained = as_dict(trained_with)["method"] if trained_with else "splic"
        # There is no bare network where only what the defence returns fits it.
        bare = trained_with is None or returns_images(trained_with)
        names = ["none", trained] if bare else [trained]
    elif list(names) == ["all"]:
        names = DEFENSES
    _require_known("--defenses", names, DEFENSES)
    known = {name: method.config for name, method in METHODS.items()}
    splic = SPLICConfig()
    if isinstance(trained_with, SPLICConfig):
        weight = trained_with.tv_weight or splic.tv_weight  # "splic" has one
        splic = dataclasses.replace(trained_with, tv_weight=weight)
    elif trained_with is not None:
        known[as_dict(trained_with)["method"]] = trained_with
    known["splic"] = shared_flags.splic_config_from_flags(splic)
    known = shared_flags.with_options(known)
    # "splic_no_tv" is "splic" but for the total variation, and what options say of it.
    known["splic_no_tv"] = dataclasses.replace(known["splic"], tv_weight=0.0)
    known["splic_no_tv"] = shared_flags.with_options(known)["splic_no_tv"]
    return {name: known.get(name) for name in names}


def network_record(loaded: checkpoints.LoadedModel) -> dict[str, Any]:
    """What a network was trained with and on, for the record."""
    weights = hashlib.sha256()
    for leaf in jax.tree.leaves(loaded.variables):
        weights.update(np.ascontiguousarray(leaf))
    return {
        "settings": loaded.settings.as_dict(),
        "training_set": dict(loaded.dataset),
        "weights_sha256": weights.hexdigest(),
    }


def _require_known(flag: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name in RENAMED:
            raise UserError(f"{flag} has {name!r}: {RENAMED[name]}")
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


def settings_of(config: TransformConfig | None) -> dict[str, Any] | None:
    """A defence as plain values as JSON has them, with checksums of what was fitted."""
    if config is None:
        return None
    digests = [
        hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
        for array in jax.tree.leaves(config)
    ]
    described = as_dict(config) | ({"fitted": digests} if digests else {})
    return json.loads(json.dumps(described))


def soundness_of(
    network: attackers.Network,
    dataset: data.Dataset,
    config: TransformConfig | None,
    seed: int,
) -> list[dict[str, Any]]:
    """What `attacks.check_classifier` finds in a defended network, as plain values.

    As an attacker by BPDA sees it, on the first images.
    """
    images = jnp.asarray(dataset.images[:CHECKED_IMAGES], jnp.float32) / 255
    findings = check_classifier(
        attackers.defended(network, config, 0, "bpda"),
        images,
        jnp.asarray(dataset.labels[:CHECKED_IMAGES]),
        jax.random.key(seed),
    )
    return [dataclasses.asdict(finding) for finding in findings]


def list_defenses() -> str:
    """The registry in words."""
    lines = []
    for name, method in METHODS.items():
        settings = as_dict(method.config)
        del settings["method"]
        facts = [
            f"{method.title} ({method.source}): {method.idea}.",
            f"{'Random' if method.random else 'Not random'}; "
            f"{'differentiable' if method.differentiable else 'no useful derivative'}; "
            f"break it with {method.attack}.",
            " ".join(f"{field}={value}" for field, value in settings.items()),
        ]
        lines.append(name)
        for fact in facts:
            lines.append(textwrap.indent(textwrap.fill(fact, 84), "    "))
    return "\n".join(lines)


def table(title: str, cells: Sequence[Mapping[str, Any]]) -> rich.table.Table:
    """The cells as a table for the terminal."""
    grid = rich.table.Table(title=title, title_justify="left")
    for heading in ("defence", "threat", "attack"):
        grid.add_column(heading)
    for heading in ("images", "accuracy", "95 % interval", "PSNR, dB"):
        grid.add_column(heading, justify="right")
    for cell in cells:
        low, high = cell["accuracy_interval"]
        psnr = cell["psnr_db"]
        grid.add_row(
            cell["defense"],
            cell["threat"],
            cell["attack"],
            str(cell["count"]),
            f"{cell['accuracy']:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{psnr['mean']:.2f}" if psnr else "-",
        )
    return grid


def main(argv: Sequence[str]) -> None:
    del argv
    if FLAGS.list:
        print(list_defenses())
        return
    if not FLAGS.checkpoint:
        raise UserError("give --checkpoint, the folder of a training run, or --list")
    compilation.keep(pathlib.Path(FLAGS.out).parent / "compiled")
    loaded = checkpoints.load_checkpoint(FLAGS.checkpoint)
    defenses = defenses_from_flags(FLAGS.defenses, loaded.settings.defense)
    _require_known("--threats", FLAGS.threats, evaluation.THREATS)
    surrogate = FLAGS.surrogate and checkpoints.load_checkpoint(FLAGS.surrogate)
    if not (0 <= FLAGS.epsilon < math.inf and 0 < FLAGS.attack_step < math.inf):
        raise UserError("--epsilon must be 0 or more, and --attack_step above 0")
    if "black-box" in FLAGS.threats and FLAGS["threats"].present and not surrogate:
        raise UserError("--threats=black-box needs --surrogate, the network to attack")
    _require_known("--attacks", FLAGS.attacks, tuple(PRESETS))
    attacks = {
        name: dataclasses.replace(PRESETS[name], epsilon=FLAGS.epsilon / 255)
        for name in FLAGS.attacks
    }
    if "pgd" in attacks:
        attacks["pgd"] = dataclasses.replace(
            attacks["pgd"], step_size=FLAGS.attack_step / 255, steps=FLAGS.attack_steps
        )
    dataset = shared_flags.dataset_from_flags(FLAGS.split)
    for path, network in ((FLAGS.checkpoint, loaded), (FLAGS.surrogate, surrogate)):
        if network and network.class_names != dataset.class_names:
            raise UserError(
                f"{path} was trained on {network.dataset['name']}, not "
                f"{dataset.name}; give --dataset={network.dataset['name']}"
            )
    shape = dataset.images.shape[1:]
    takes = loaded.settings.input_channels(shape[-1])
    for name, config in list(defenses.items()):
        if isinstance(config, SPLICConfig):
            shared_flags.require_rank(config, shape)
        given = method_of(config).channels(config, shape[-1]) if config else shape[-1]
        if given != takes and FLAGS.defenses == ["all"]:
            del defenses[name]
        elif given != takes:
            raise UserError(
                f"--defenses has {name!r}, which gives the network {given} channels; "
                f"{FLAGS.checkpoint} takes {takes}"
            )
    if any(config and method_of(config).fit for config in defenses.values()):
        training = shared_flags.dataset_from_flags("train")
        fit_key = jax.random.key(loaded.settings.seed)  # as in training
        defenses = {
            name: config and fitted(config, training.images, fit_key)
            for name, config in defenses.items()
        }
    logits_fn = models.logits_function(loaded.graphdef, loaded.variables)
    planned = list(
        evaluation.planned(defenses, FLAGS.threats, attacks, bool(surrogate))
    )
    if not planned:
        raise UserError(
            "nothing to measure: without a defence gray-box is white-box; give others "
            "of --threats or --defenses"
        )
    if FLAGS.dry_run:
        cells = planning.plan(
            logits_fn, dataset, defenses, FLAGS.threats, attacks, bool(surrogate)
        )
        rich.console.Console().print(cells)
        return
    if surrogate and surrogate.settings.input_channels(shape[-1]) != shape[-1]:
        raise UserError(
            f"--surrogate={FLAGS.surrogate} takes codes, not images; give another"
        )
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
        "votes": FLAGS.votes,
        "vote": FLAGS.vote,
        "seed": FLAGS.seed,
    }
    inputs = json.loads(json.dumps(inputs))
    path = pathlib.Path(FLAGS.out)
    settings = {name: settings_of(config) for name, config in defenses.items()}
    earlier = records.record_of(path, inputs)
    before = earlier.get("defenses", {})
    same = {name: settings[name] for name in settings if name in before}
    records.require_same(
        path,
        {"defenses": {name: before[name] for name in same}},
        {"defenses": same},
    )
    kept = {evaluation.cell_name(cell): cell for cell in earlier.get("cells", [])}
    made_by = provenance.provenance()
    record = {
        "provenance": made_by,
        **inputs,
        "defenses": {**before, **settings},
        "soundness": earlier.get("soundness", {}),
    }
    save = None
    if FLAGS.save_attacked:
        save = AttackedImages(pathlib.Path(FLAGS.save_attacked), inputs, settings)
        asked = {
            evaluation.planned_name(name, config, threat, attack, saved=True)
            for name, config, threat, attack in planned
            if threat != "clean"
        }
        save.require_free(asked)
        kept = {
            name: cell
            for name, cell in kept.items()
            if name not in asked or save.holds(cell)
        }
    progress = Progress()
    progress.line(
        f"evaluating {FLAGS.checkpoint} on {len(dataset.images)} images of "
        f"{dataset.name}, into {path}"
    )
    if kept:
        progress.line(f"{len(kept)} cells are done from before")
    for name, config in defenses.items() if FLAGS.soundness else ():
        if name not in record["soundness"]:
            checked = soundness_of(logits_fn, dataset, config, FLAGS.seed)
            record["soundness"][name] = checked

    def store(cells: list[dict[str, Any]]) -> None:
        """Writes these cells, those from before that were not asked for, and pairs."""
        asked = {evaluation.cell_name(cell) for cell in cells}
        others = [cell for name, cell in kept.items() if name not in asked]
        comparisons = [
            row
            for other in ("none", "splic_no_tv")
            for row in evaluation.compare([*cells, *others], "splic", other)
        ]
        found = {"cells": [*cells, *others], "comparisons": comparisons}
        write_json(path, {**record, **found})

    cells = evaluation.evaluate(
        logits_fn,
        dataset,
        defenses,
        threats=tuple(FLAGS.threats),
        attacks=attacks,
        seed=FLAGS.seed,
        votes=FLAGS.votes,
        vote=FLAGS.vote,
        surrogate=surrogate
        and models.logits_function(surrogate.graphdef, surrogate.variables),
        progress=progress,
        done=kept,
        save=save,
        store=store,
        stamp={name: made_by[name] for name in ("commit", "date")},
    )
    if any(evaluation.cell_name(cell) not in kept for cell in cells):
        store(cells)  # else the file stays as it was measured
    for name, findings in record["soundness"].items():
        for finding in findings:
            if finding["tripped"] or finding.get("wants"):
                progress.line(f"{name}: {finding['check']}: {finding['sentence']}")
    trained = loaded.settings.defense
    trained_with = method_of(trained).title if trained else "no defence"
    title = f"{dataset.name}, network trained with {trained_with}"
    rich.console.Console().print(table(title, cells))
    for row in evaluation.compare(cells, "splic", "splic_no_tv"):
        gap = row["psnr_difference_db"]
        if gap:
            progress.line(
                f"{row['threat']}: TV changes the PSNR by {gap['mean']:+.2f} dB "
                f"(+- {gap['half_width']:.2f}, 95 %, paired)"
            )


if __name__ == "__main__":
    define_flags()
    errors.run(main)
