"""Accuracy of a classifier, bare and behind SPLIC, clean and under attack.

Who knows what, in the paper's terms (section 3.5):

    clean       nobody attacks
    black-box   the attacker knows neither the network nor the defence, and attacks a
                network of their own: PGD on that surrogate
    gray-box    the attacker knows the network, not the defence: PGD on the bare
                network, and what comes out is purified and classified
    white-box   the attacker knows both: PGD through the defence, whose derivative is
                taken to be the identity (BPDA), each step with fresh masks

Without a defence gray-box and white-box are the same attack, called white-box here. The
masks that judge an image are never those the attack was made with.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from attacks import bpda, pgd
from splic_jax import SPLICConfig, purify
from splic_jax.purification import COMPILER_OPTIONS
from train.data import Dataset
from train.progress import Progress

THREATS = ("clean", "black-box", "gray-box", "white-box")

# Images attacked at a time, at most: few enough that a step of progress is seconds.
MAX_BATCH = 64


def batch_size(count: int) -> int:
    """Images in a batch of `measure`: at most `MAX_BATCH`, and the last nearly full."""
    return math.ceil(count / math.ceil(count / MAX_BATCH))


@dataclasses.dataclass(frozen=True)
class AttackSettings:
    """PGD as the paper sets it (section 3.5).

    Attributes:
        epsilon: L-infinity radius in pixel values, images being in [0, 1].
        step_size: in pixel values.
        steps: gradient steps.
    """

    epsilon: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 7


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measured number: a threat, a defence, and how often the answer was right.

    Attributes:
        threat: one of `THREATS`.
        attack: what the attacker ran, in words; "none" when clean.
        defense: name of the defence, "none" for the bare network.
        correct: for each image, whether it was classified correctly.
        psnr: for each image, of what the network saw against the clean image, in dB;
            infinite where the two are equal.
    """

    threat: str
    attack: str
    defense: str
    correct: tuple[bool, ...]
    psnr: tuple[float, ...]

    def summary(self) -> dict[str, Any]:
        """The cell as plain values, for JSON; intervals are 95 %."""
        low, high = wilson_interval(sum(self.correct), len(self.correct))
        finite = np.asarray(self.psnr)[np.isfinite(self.psnr)]
        return {
            "threat": self.threat,
            "attack": self.attack,
            "defense": self.defense,
            "count": len(self.correct),
            "correct": sum(self.correct),
            "accuracy": sum(self.correct) / len(self.correct),
            "accuracy_interval": [low, high],
            "psnr_db": mean_interval(finite) if len(finite) else None,
            "correct_by_image": "".join("01"[c] for c in self.correct),
            "psnr_db_by_image": [
                round(value, 2) if math.isfinite(value) else None for value in self.psnr
            ],
        }


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (SciPy's)."""
    interval = stats.binomtest(correct, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: np.ndarray) -> dict[str, float]:
    """Mean, and half the width of its 95 % interval by Student's t."""
    if len(values) < 2:
        return {"mean": float(np.mean(values)), "half_width": math.inf}
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return {"mean": float(np.mean(values)), "half_width": float(half)}


@partial(
    jax.jit, static_argnames=("config", "attack"), compiler_options=COMPILER_OPTIONS
)
def attack_batch(
    logits_fn: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    first_index: int,
    config: SPLICConfig | None,
    attack: AttackSettings,
) -> jax.Array:
    """PGD on the bare network (`config` None), or through its SPLIC defence (BPDA)."""

    def logits(images, key):
        if config is not None:
            defend = partial(purify, config=config, first_index=first_index)
            images = bpda(defend)(images, key)
        return logits_fn(images)

    return pgd(
        logits,
        images,
        labels,
        key,
        epsilon=attack.epsilon,
        step_size=attack.step_size,
        steps=attack.steps,
        first_index=first_index,
    ).images


@partial(jax.jit, static_argnames=("config",), compiler_options=COMPILER_OPTIONS)
def classify_batch(
    logits_fn: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    key: jax.Array,
    first_index: int,
    config: SPLICConfig | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns predictions, and the images as the network saw them."""
    if config is not None:
        images = purify(images, key, config, first_index=first_index)
    return logits_fn(images).argmax(axis=-1), images


def measure(
    logits_fn: Callable[[jax.Array], jax.Array],
    dataset: Dataset,
    threat: str,
    defense: str,
    config: SPLICConfig | None,
    *,
    attack: AttackSettings,
    seed: int,
    surrogate: Callable[[jax.Array], jax.Array] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Cell:
    """Measures one cell.

    An image's attack and masks follow from the seed and its index alone, so cells of
    one seed are paired image by image, and the first n images of a longer run give
    the same answers.

    Args:
        logits_fn: images to logits, as `train.models.logits_function` makes it.
        dataset: the images to classify.
        threat: one of `THREATS`.
        defense: name of the defence, for the record.
        config: its settings; None for the bare network.
        attack: settings of PGD.
        seed: of the attack's start and the masks.
        surrogate: the network that a black-box attacker attacks, images to logits.
        advance: called with the number of images done since the last call.

    Returns:
        The cell.
    """
    attack_key, mask_key = jax.random.split(jax.random.key(seed))
    knows = config if threat == "white-box" else None
    target = surrogate if threat == "black-box" else logits_fn
    correct, psnr = [], []
    count = len(dataset.images)
    batch = batch_size(count)
    for start in range(0, count, batch):
        # The last batch is filled up, because another size would compile again.
        size = min(batch, count - start)
        chosen = (start + np.arange(batch)) % count
        # Put in its place, as what an attack returns is; else both are compiled for.
        clean = jax.device_put(dataset.images[chosen], jax.devices()[0])
        clean = clean.astype(jnp.float32) / 255
        labels = jnp.asarray(dataset.labels[chosen])
        images = clean
        if threat != "clean":
            images = attack_batch(
                target, clean, labels, attack_key, start, knows, attack
            )
        predicted, seen = classify_batch(logits_fn, images, mask_key, start, config)
        correct += np.asarray(predicted == labels)[:size].tolist()
        psnr += np.asarray(dm_pix.psnr(clean, seen))[:size].tolist()
        advance(size)
    if threat == "clean":
        name = "none"
    else:
        name = describe_attack(attack)
        name = name if knows is None else f"BPDA ({name})"
    return Cell(threat, name, defense, tuple(correct), tuple(psnr))


def evaluate(
    logits_fn: Callable[[jax.Array], jax.Array],
    dataset: Dataset,
    defenses: Mapping[str, SPLICConfig | None],
    *,
    threats: tuple[str, ...] = THREATS,
    attack: AttackSettings = AttackSettings(),
    seed: int = 0,
    surrogate: Callable[[jax.Array], jax.Array] | None = None,
    progress: Progress | None = None,
    done: Mapping[tuple[str, str], dict[str, Any]] | None = None,
    store: Callable[[list[dict[str, Any]]], None] = lambda cells: None,
) -> list[dict[str, Any]]:
    """Measures every threat against every defence.

    Args:
        logits_fn, dataset, attack, seed, surrogate: as in `measure`; there is no
            black-box attack without a surrogate.
        defenses: name to settings; None stands for the bare network.
        threats: which of `THREATS`.
        progress: where to show how far it is; None shows nothing.
        done: summaries measured before, by defence and threat; not measured again.
        store: called with all summaries so far after each that was measured.

    Returns:
        The summaries of the cells (see `Cell.summary`), in order.
    """
    progress = progress or Progress(quiet=True)
    cells = []
    for defense, config in defenses.items():
        for threat in threats:
            if config is None and threat == "gray-box":
                continue
            if surrogate is None and threat == "black-box":
                continue
            found = (done or {}).get((defense, threat))
            if found is None:
                name = f"{threat}, defense {defense}"
                with progress.stage(name, len(dataset.images), lines=False) as advance:
                    cell = measure(
                        logits_fn,
                        dataset,
                        threat,
                        defense,
                        config,
                        attack=attack,
                        seed=seed,
                        surrogate=surrogate,
                        advance=advance,
                    )
                found = cell.summary()
                progress.line(describe(found))
                store([*cells, found])
            cells.append(found)
    return cells


def compare(cells: list[dict[str, Any]], ours: str, other: str) -> list[dict[str, Any]]:
    """Paired comparison of two defences, image by image, threat by threat.

    Against the bare network ("none") gray-box is compared with its white-box cell,
    which is the same attack.

    Args:
        cells: summaries of `evaluate`.
        ours: name of a defence.
        other: name of the one to compare it with.

    Returns:
        For each threat both were measured under: the accuracy of both and the p-value
        of McNemar's exact test that they are equally often right, and the mean
        difference in PSNR with the half width of its 95 % interval (None where a PSNR
        is infinite).
    """
    found = {(cell["defense"], cell["threat"]): cell for cell in cells}
    rows = []
    for threat in THREATS:
        twin = "white-box" if other == "none" and threat == "gray-box" else threat
        if other == "none" and threat == "white-box":
            continue
        if (ours, threat) not in found or (other, twin) not in found:
            continue
        a, b = found[ours, threat], found[other, twin]
        pairs = list(zip(a["correct_by_image"], b["correct_by_image"], strict=True))
        gained, lost = pairs.count(("1", "0")), pairs.count(("0", "1"))
        test = stats.binomtest(gained, gained + lost) if gained + lost else None
        gap = None
        if None not in a["psnr_db_by_image"] + b["psnr_db_by_image"]:
            gap = mean_interval(
                np.subtract(a["psnr_db_by_image"], b["psnr_db_by_image"])
            )
        rows.append(
            {
                "threat": threat,
                "defense": ours,
                "other": other,
                "accuracy": a["accuracy"],
                "other_accuracy": b["accuracy"],
                "p_value": float(test.pvalue) if test else 1.0,
                "intervals_apart": a["accuracy_interval"][0] > b["accuracy_interval"][1]
                or b["accuracy_interval"][0] > a["accuracy_interval"][1],
                "psnr_difference_db": gap,
            }
        )
    return rows


def describe(cell: Mapping[str, Any]) -> str:
    """One line for a cell."""
    low, high = cell["accuracy_interval"]
    return (
        f"{cell['threat']}, defense {cell['defense']}: {cell['accuracy']:.1%} "
        f"[{low:.1%}, {high:.1%}] of {cell['count']}"
    )


def describe_attack(attack: AttackSettings) -> str:
    """The attack in a few words, with its settings."""
    return (
        f"PGD-{attack.steps}, L-inf {attack.epsilon * 255:g}/255, "
        f"step {attack.step_size * 255:g}/255"
    )
