"""Runs an evaluation: keeps the cells that are there, measures the missing ones.

The record is written cell by cell, so that an interrupted run resumes at the first
missing cell. Results of other settings are never overwritten.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from attacks import check_classifier
from splic_jax import SPLICConfig, method_of
from splic_jax.transforms import TransformConfig, fitted
from train.data.loading import Dataset
from train.evaluation.attacked_images import AttackedImages
from train.evaluation.cells import evaluate
from train.evaluation.estimate import estimate
from train.evaluation.plan import by_name, cell_name, planned, planned_name
from train.evaluation.statistics import compare
from train.flags import require_rank
from train.networks.classifier import Classifier
from train.present.results import Results
from train.present.tables import accuracy
from train.present.terminal import print_table
from train.records import provenance, storing
from train.threats.attackers import AttackSettings
from train.threats.defended import Network, defended, settings_of
from train.training.checkpoints import dataset_checksum
from train.utils.errors import UserError
from train.utils.progress import Progress

FORMAT = 2
CHECKED_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and how.

    Attributes:
        network: the network.
        clean_accuracy: from its check on clean images, if there was one.
        dataset: the images, of the split `split`.
        defenses: name to settings, fitted where they need that; None for the bare
            network.
        threats, attacks, votes, vote, seed: as in `train.evaluation.cells.evaluate`.
        surrogate: the network that a black-box attacker attacks, if there is one.
        soundness: whether to look for signs of overestimated accuracy.
        save_attacked: folder for the attacked images; None saves none.
    """

    network: Classifier
    dataset: Dataset
    split: str
    defenses: Mapping[str, TransformConfig | None]
    threats: tuple[str, ...]
    attacks: Mapping[str, AttackSettings]
    surrogate: Classifier | None = None
    clean_accuracy: Mapping[str, Any] | None = None
    votes: int = 1
    vote: str = "logits"
    seed: int = 0
    soundness: bool = True
    save_attacked: pathlib.Path | None = None

    def planned(self) -> list[tuple[str, TransformConfig | None, str, AttackSettings]]:
        """Its cells, in order; see `train.evaluation.plan.planned`.

        Raises:
            UserError: if there are none.
        """
        cells = list(
            planned(self.defenses, self.threats, self.attacks, bool(self.surrogate))
        )
        if not cells:
            raise UserError(
                "nothing to measure: without a defence gray-box is white-box; give "
                "others of --threats or --defenses"
            )
        return cells

    def inputs(self) -> dict[str, Any]:
        """What all cells depend on, for the record."""
        values = {
            "format": FORMAT,
            "dataset": {
                **self.dataset.record(self.split),
                "sha256": dataset_checksum(self.dataset),
            },
            "network": self.network.record,
            "surrogate": self.surrogate and self.surrogate.record,
            "votes": self.votes,
            "vote": self.vote,
            "seed": self.seed,
        }
        return json.loads(json.dumps(values))


def fitting_defenses(
    defenses: Mapping[str, TransformConfig | None],
    network: Classifier,
    shape: tuple[int, int, int],
    training: Callable[[], Dataset],
    *,
    drop: bool,
) -> dict[str, TransformConfig | None]:
    """The defences that can stand before a network, fitted where they need that.

    Args:
        defenses: name to settings.
        network: the network.
        shape: of an image.
        training: loads the images to fit to.
        drop: leave out those whose output has channels the network does not take.

    Raises:
        UserError: for such a defence if it is not left out, or a rank too large for the
            images.
    """
    takes, kept = network.input_channels(shape[-1]), {}
    for name, config in defenses.items():
        if isinstance(config, SPLICConfig):
            require_rank(config, shape)
        given = method_of(config).channels(config, shape[-1]) if config else shape[-1]
        if given == takes:
            kept[name] = config
        elif not drop:
            raise UserError(
                f"--defenses has {name!r}, which gives the network {given} channels; "
                f"it takes {takes}"
            )
    if any(config and method_of(config).fit for config in kept.values()):
        images, key = training().images, jax.random.key(network.seed)
        kept = {n: config and fitted(config, images, key) for n, config in kept.items()}
    return kept


def soundness_of(
    network: Network,
    dataset: Dataset,
    config: TransformConfig | None,
    seed: int,
) -> list[dict[str, Any]]:
    """What `attacks.check_classifier` finds in a defended network, as plain values.

    On the first images, with gradients by BPDA.
    """
    images = jnp.asarray(dataset.images[:CHECKED_IMAGES], jnp.float32) / 255
    findings = check_classifier(
        defended(network, config, 0, "bpda"),
        images,
        jnp.asarray(dataset.labels[:CHECKED_IMAGES]),
        jax.random.key(seed),
    )
    return [dataclasses.asdict(finding) for finding in findings]


def show_cells(title: str, cells: Sequence[Mapping[str, Any]]) -> None:
    """Prints summaries of cells as a table."""
    found = accuracy.cells(Results(records={"": cells}), {title: "#"})
    print_table(found.without("network trained on").titled(title))


def run(evaluation: Evaluation, path: pathlib.Path, *, dry_run: bool = False) -> None:
    """Measures what is missing in the record at `path`, and prints the cells.

    Args:
        evaluation: what to measure.
        path: the JSON file, there or not.
        dry_run: print the cells with an estimate of the time, and measure none.

    Raises:
        UserError: if the file is of another evaluation, or cannot be written.
    """
    wanted, dataset = evaluation.planned(), evaluation.dataset
    network, surrogate = evaluation.network, evaluation.surrogate
    logits_fn = network.logits
    if dry_run:
        cells = estimate(
            logits_fn,
            dataset,
            evaluation.defenses,
            evaluation.threats,
            evaluation.attacks,
            bool(surrogate),
        )
        print_table(cells)
        return
    inputs, progress = evaluation.inputs(), Progress()
    settings = {name: settings_of(x) for name, x in evaluation.defenses.items()}
    earlier = storing.record_of(path, inputs)
    before = earlier.get("defenses", {})
    same = {name: settings[name] for name in settings if name in before}
    storing.require_same(
        path,
        {"defenses": {name: before[name] for name in same}},
        {"defenses": same},
    )
    kept = by_name(earlier.get("cells", []))
    made_by = provenance.provenance()
    record = {
        "provenance": made_by,
        **inputs,
        "defenses": {**before, **settings},
        "soundness": earlier.get("soundness", {}),
    }
    if evaluation.clean_accuracy:
        record["clean_accuracy"] = evaluation.clean_accuracy
    save = None
    if evaluation.save_attacked:
        save = AttackedImages(evaluation.save_attacked, inputs, settings)
        asked = {
            planned_name(name, config, threat, attack, saved=True)
            for name, config, threat, attack in wanted
            if threat != "clean"
        }
        save.require_free(asked)
        kept = {
            name: cell
            for name, cell in kept.items()
            if name not in asked or save.holds(cell)
        }
    progress.line(
        f"evaluating {network.name} on {len(dataset.images)} images of "
        f"{dataset.name}, into {path}"
    )
    if kept:
        progress.line(f"{len(kept)} cells are done from before")
    for name, config in evaluation.defenses.items() if evaluation.soundness else ():
        if name not in record["soundness"]:
            checked = soundness_of(logits_fn, dataset, config, evaluation.seed)
            record["soundness"][name] = checked

    def store(cells: list[dict[str, Any]]) -> None:
        """Writes these cells, earlier ones that were not asked for, and comparisons."""
        asked = by_name(cells)
        others = [cell for name, cell in kept.items() if name not in asked]
        comparisons = [
            row
            for other in ("none", "splic_no_tv")
            for row in compare([*cells, *others], "splic", other)
        ]
        found = {"cells": [*cells, *others], "comparisons": comparisons}
        storing.write_record(path, {**record, **found})

    cells = evaluate(
        logits_fn,
        dataset,
        evaluation.defenses,
        threats=evaluation.threats,
        attacks=evaluation.attacks,
        seed=evaluation.seed,
        votes=evaluation.votes,
        vote=evaluation.vote,
        surrogate=surrogate and surrogate.logits,
        progress=progress,
        done=kept,
        save=save,
        store=store,
        stamp={name: made_by[name] for name in ("commit", "date")},
    )
    if any(cell_name(cell) not in kept for cell in cells):
        store(cells)  # else the file stays as it was measured
    for name, findings in record["soundness"].items():
        for finding in findings:
            if finding["tripped"] or finding.get("wants"):
                progress.line(f"{name}: {finding['check']}: {finding['sentence']}")
    show_cells(f"{dataset.name}, {network.title}", cells)
    for row in compare(cells, "splic", "splic_no_tv"):
        gap = row["psnr_difference_db"]
        if gap:
            progress.line(
                f"{row['threat']}: TV changes the PSNR by {gap['mean']:+.2f} dB "
                f"(+- {gap['half_width']:.2f}, 95 %, paired)"
            )
