"""About how long an evaluation takes."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from splic_jax import transform
from splic_jax.transforms import TransformConfig
from train.data.loading import Dataset
from train.evaluation.cells import batch_size
from train.evaluation.plan import attack_words, planned
from train.present.table import Column, Table
from train.threats.attackers import AttackSettings, knows_defense
from train.threats.defended import Network


def questions(attack: AttackSettings) -> int:
    """About how many queries an attack makes for one image.

    A gradient counts as one. AutoAttack stops once it succeeds: this is its largest
    number.
    """
    match attack.name:
        case "cw":
            return 5 * attack.steps
        case "spsa":
            return 2 * 128 * attack.steps
        case "autoattack":
            return (1 + 9 + 2 * 9) * attack.steps + 5000
        case "autoattack-rand":
            return 2 * 20 * attack.steps
    return attack.restarts * (attack.steps + 1) * attack.eot_samples


def _seconds(run: Callable[[], Any]) -> float:
    jax.block_until_ready(run())
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def estimate(
    network: Network,
    dataset: Dataset,
    defenses: Mapping[str, TransformConfig | None],
    threats: Sequence[str],
    attacks: Mapping[str, AttackSettings],
    surrogate: bool,
) -> Table:
    """The cells of `plan.planned`, in order, with an estimate of the time.

    A gradient of the network and each transform are timed on one batch; compiling, and
    the backward pass of a true derivative, are not in the estimate.
    """
    batch = batch_size(len(dataset.images))
    images = jnp.asarray(dataset.images[:batch], jnp.float32) / 255
    seen = {
        name: images if config is None else transform(images, jax.random.key(0), config)
        for name, config in defenses.items()
    }
    gradient = jax.jit(jax.grad(lambda images: network(images).sum()))
    first = next(iter(seen.values()))
    of_gradient = _seconds(lambda: gradient(first)) / batch
    of_transform = {
        name: _seconds(lambda c=config: transform(images, jax.random.key(0), c)) / batch
        if config
        else 0.0
        for name, config in defenses.items()
    }
    rows, total = [], 0.0
    for defense, config, threat, attack in planned(
        defenses, threats, attacks, surrogate
    ):
        asked = 0 if threat == "clean" else questions(attack)
        transformed = 1 + (asked if knows_defense(threat) else 0)
        seconds = len(dataset.images) * (
            asked * of_gradient + transformed * of_transform[defense]
        )
        total += seconds
        words = attack_words(threat, config, attack)
        rows.append((defense, threat, words, f"{seconds / 60:.1f}"))
    words = (Column(head, words=True) for head in ("defence", "threat", "attack"))
    return Table(
        f"{len(dataset.images)} images of {dataset.name}",
        (*words, Column("about, minutes")),
        (*rows, ("all", "", "", f"{total / 60:.1f}")),
    )
