"""Blocks that are a table and the note below it."""

import functools
from collections.abc import Callable

from train.present.markdown import markdown
from train.present.quotes.absent import Block, where_measured
from train.present.results import Results
from train.present.sentences import note
from train.present.table import Table
from train.present.tables import accuracy, defenses, gpu, speed
from train.present.tables.listed import listed


def _block(table: Callable[[Results], Table], name: str, before: str = "") -> Block:
    return lambda results: (
        f"{markdown(table(results))}\n\n{before}{note(results, name)}"
    )


def _listed(name: str) -> Block:
    return _block(functools.partial(listed, name=name), name)


def _cue_conflict(results: Results) -> Table:
    lists = {n: f"cue_conflict_{n}.json#/cells" for n in accuracy.NETWORKS}
    return accuracy.cells(results, lists).without("attack", "images", "PSNR, dB")


def _defenses(table: Callable[[Results], Table], before: str = "") -> Block:
    return where_measured(defenses.FILE, _block(table, "network", before))


_GRAY_BOX = (
    "By accuracy under PGD. Gray-box: FGSM, and PGD-7 with steps of 2/255, in the "
    "L-infinity ball of 8/255 on the network alone; 95 % Wilson intervals; PSNR in dB. "
)
NOTED: dict[str, Block] = {
    "stopping": _listed("stopping"),
    "semantics": _listed("semantics"),
    "looks": _listed("looks"),
    "agreement": _listed("agreement"),
    "training_speed": _listed("training"),
    "adaptive": _listed("adaptive"),
    "gradients": _block(speed.gradients, "gradients"),
    "attack_speed": _block(speed.attacks, "attacks"),
    "tests": _block(speed.tests, "tests"),
    "cue_conflict": _block(_cue_conflict, "cue_conflict"),
    "defenses_methods": _defenses(defenses.methods, _GRAY_BOX),
    "defenses_sweeps": _defenses(defenses.sweeps),
    "defenses_votes": _defenses(defenses.votes, "The mean of the logits decides. "),
    "gpu_training": _block(gpu.training, "gpu_training"),
    "gpu_white_box": _block(gpu.white_box, "gpu_white_box"),
    "gpu_attack_speed": _block(gpu.attack_speed, "gpu_attack_speed"),
}
