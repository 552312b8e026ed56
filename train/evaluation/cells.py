"""Accuracy of a classifier, bare and behind a defence, clean and under attack.

Who knows what (paper section 3.5, and what a defence has to face beyond it):

    clean       nobody attacks
    black-box   the attacker knows neither the network nor the defence, and attacks a
                network of their own, whose adversarial images are transferred
    query       the attacker knows neither, but may ask the defended network as often as
                they like
    gray-box    the attacker knows the network, not the defence: attacks the bare
                network, and what comes out is purified and classified
    white-box   the attacker knows both: attacks through the defence, whose derivative
                is taken to be the identity (BPDA), each step with fresh masks
    adaptive    knows both, and that the defence is random: averages each gradient over
                masks (EOT), through the identity or the defence's own derivative

Without a defence gray-box and white-box are the same attack, called white-box here, and
so where the network takes nothing but what the defence returns (thermometer codes). The
masks that judge an image are never those the attack was made with.
"""

import collections
import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attacks import Attacked, Status
from splic_jax import SPLICConfig, purify, transform
from splic_jax.purification import COMPILER_OPTIONS
from splic_jax.transforms import TransformConfig
from train.data.loading import Dataset
from train.evaluation.attacked_images import AttackedImages
from train.evaluation.plan import planned, planned_name
from train.evaluation.statistics import mean_interval, share_of
from train.threats import attackers
from train.threats.attackers import PRESETS, THREATS, AttackSettings
from train.utils import quality
from train.utils.devices import spread
from train.utils.finite import is_finite, require_finite
from train.utils.progress import Progress

PAPER_PGD: Mapping[str, AttackSettings] = {"pgd": PRESETS["pgd"]}

# Images attacked at a time, at most: few enough that a step of progress is seconds.
MAX_BATCH = 64


def batch_size(count: int) -> int:
    """Images in a batch of `measure`: at most `MAX_BATCH`, and the last nearly full."""
    return math.ceil(count / math.ceil(count / MAX_BATCH))


def batches_ahead() -> int:
    """Batches that are under way while `measure` reads the results of one.

    One on an accelerator, which would else wait for the host after each; none on a CPU,
    where two would share the cores.
    """
    return 0 if jax.default_backend() == "cpu" else 1


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measured number: a threat, a defence, and how often the answer was right.

    Attributes:
        threat: one of `train.threats.attackers.THREATS`.
        attack: what the attacker ran, in words; "none" when clean.
        settings: of the attack; None when clean.
        defense: name of the defence, "none" for the bare network.
        correct: for each image, whether it was classified correctly.
        psnr: for each image, of what the network saw against the clean image, in dB;
            infinite where the two are equal. Empty where it saw no image.
        queries: how often the attacked network saw a version of an image, at most.
        not_finite: how many logits it met that were not finite.
        given_up: the images that the attack gave up on, unbroken, and why: a name of
            `attacks.Status` in lower case to their number.
        seed: of the attack and the masks.
        saved: where the attacked images were written, rounded to 8 bits before they
            were judged (`train.evaluation.attacked_images`); None where they were not.
    """

    threat: str
    attack: str
    settings: AttackSettings | None
    defense: str
    correct: tuple[bool, ...]
    psnr: tuple[float, ...]
    queries: int = 0
    not_finite: int = 0
    given_up: Mapping[str, int] = dataclasses.field(default_factory=dict)
    seed: int = 0
    saved: Mapping[str, str] | None = None

    def summary(self) -> dict[str, Any]:
        """The cell as plain values, for JSON; intervals are 95 %."""
        finite = np.asarray(self.psnr)[np.isfinite(self.psnr)]
        return {
            "threat": self.threat,
            "attack": self.attack,
            "attack_settings": self.settings and dataclasses.asdict(self.settings),
            "queries_per_image": self.queries,
            "not_finite": self.not_finite,
            "given_up": dict(self.given_up),
            "seed": self.seed,
            "defense": self.defense,
            "count": len(self.correct),
            "correct": sum(self.correct),
            **share_of(sum(self.correct), len(self.correct)),
            "psnr_db": mean_interval(finite) if len(finite) else None,
            "correct_by_image": "".join("01"[c] for c in self.correct),
            "psnr_db_by_image": [
                round(value, 2) if math.isfinite(value) else None for value in self.psnr
            ],
            **({"saved": dict(self.saved)} if self.saved else {}),
        }


attack_batch = jax.jit(
    attackers.attack_batch,
    static_argnames=("attack", "eight_bits"),
    compiler_options=COMPILER_OPTIONS,
)


def transform_batch(
    images: jax.Array, key: jax.Array, first_index: int, config: TransformConfig
) -> jax.Array:
    """`splic_jax.transform`, compiled by itself, whatever network comes after it.

    SPLIC runs on all cores of a CPU.
    """
    if isinstance(config, SPLICConfig) and (devices := spread()):
        return purify(images, key, config, first_index=first_index, devices=devices)
    return _transformed(images, key, first_index, config)


@partial(jax.jit, compiler_options=COMPILER_OPTIONS)
def _transformed(
    images: jax.Array, key: jax.Array, first_index: int, config: TransformConfig
) -> jax.Array:
    return transform(images, key, config, first_index=first_index)


@jax.jit
def _predict(
    logits_fn: Callable[[jax.Array], jax.Array], images: jax.Array
) -> jax.Array:
    return logits_fn(images).argmax(axis=-1)


def classify_batch(
    logits_fn: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    key: jax.Array,
    first_index: int,
    config: TransformConfig | None,
    votes: int = 1,
    vote: str = "logits",
) -> tuple[jax.Array, jax.Array]:
    """Returns predictions, and the images as the network saw them (the first time).

    An image that the defence ever made infinite or NaN is NaN in the latter.

    With several `votes` the defence draws as often, and the mean of the logits decides,
    or with ``vote="majority"`` the class named most often (the first of equals).
    """
    if votes == 1 or config is None:
        # Two programs: a network is compiled once, and not for each transform.
        seen = images
        if config is not None:
            seen = transform_batch(images, key, first_index, config)
        return _predict(logits_fn, seen), seen
    return _vote(logits_fn, images, key, first_index, config, votes, vote)


@partial(jax.jit, static_argnames=("votes", "vote"), compiler_options=COMPILER_OPTIONS)
def _vote(logits_fn, images, key, first_index, config, votes, vote):
    def look(key):
        seen = transform(images, key, config, first_index=first_index)
        return logits_fn(seen), seen

    keys = jax.random.split(key, votes)
    logits, seen = look(keys[0])

    def ballot(logits):
        if vote == "majority":
            return jax.nn.one_hot(logits.argmax(axis=-1), logits.shape[-1])
        return logits

    def count(carry, key):
        total, finite = carry
        logits, again = look(key)
        return (total + ballot(logits), finite & is_finite(again)), None

    start = ballot(logits), is_finite(seen)
    (total, finite), _ = jax.lax.scan(count, start, keys[1:])
    seen = jnp.where(finite[:, None, None, None], seen, jnp.nan)
    return total.argmax(axis=-1), seen


def measure(
    logits_fn: Callable[[jax.Array], jax.Array],
    dataset: Dataset,
    threat: str,
    defense: str,
    config: TransformConfig | None,
    *,
    attack: AttackSettings,
    seed: int,
    votes: int = 1,
    vote: str = "logits",
    surrogate: Callable[[jax.Array], jax.Array] | None = None,
    attacked: dict[Any, Attacked] | None = None,
    save: AttackedImages | None = None,
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
        attack: the attack; not used where the threat is "clean".
        seed: of the attack's start and the masks.
        votes, vote: as in `classify_batch`.
        surrogate: the network that a black-box attacker attacks, images to logits.
        attacked: where images attacked without a defence are kept for the next call,
            since they are the same for all defences.
        save: where to write the attacked images, which are then rounded to 8 bits, and
            judged as they are read from a file.
        advance: called with the number of images done since the last call.

    Returns:
        The cell.

    Raises:
        UserError: for an image that is not finite behind the defence.
    """
    attacked = {} if attacked is None else attacked
    attack_key, mask_key = jax.random.split(jax.random.key(seed))
    knows = config if attackers.knows_defense(threat) else None
    target = surrogate if threat == "black-box" else logits_fn
    correct, psnr, queries, not_finite = [], [], 0, 0
    given_up = collections.Counter()
    name = planned_name(defense, config, threat, attack, save is not None)
    to_save = []
    waiting = collections.deque()

    def read_down_to(left: int) -> None:
        nonlocal queries, not_finite
        while len(waiting) > left:
            start, size, right, decibels, found, pixels, finite = jax.device_get(
                waiting.popleft()
            )
            require_finite(finite[:size], start, defense)
            correct.extend(right[:size].tolist())
            if decibels is not None:
                psnr.extend(decibels[:size].tolist())
            if found is not None:
                queries = max(queries, int(found[0].max()))
                not_finite += int(found[1][:size].sum())
                status, broken = (values[:size] for values in found[2:])
                why = status[~broken & (status > Status.BUDGET)]
                given_up.update(Status(code).name.lower() for code in why)
            if pixels is not None:
                to_save.append(pixels[:size])
            advance(size)

    count = len(dataset.images)
    batch = batch_size(count)
    for start in range(0, count, batch):
        # The last batch is filled up, because another size would compile again.
        size = min(batch, count - start)
        chosen = (start + np.arange(batch)) % count
        # Put in its place, as what an attack returns is; else both are compiled for.
        clean = jax.device_put(dataset.images[chosen], jax.devices()[0])
        clean, pixels = clean.astype(jnp.float32) / 255, None
        labels = jnp.asarray(dataset.labels[chosen])
        attack_with = partial(
            attack_batch,
            target,
            clean,
            labels,
            attack_key,
            start,
            knows,
            attack,
            eight_bits=save is not None,
        )
        made = (threat == "black-box", attack, start)
        images, counted = clean, None
        if threat != "clean":
            if knows is not None:
                found = attack_with()
            elif made in attacked:
                found = attacked[made]
            else:
                found = attacked[made] = attack_with()
            images = found.images
            counted = found.queries, found.not_finite, found.status, found.success
            if save is not None:  # and read, as the clean ones are above
                pixels = jnp.round(images * 255).astype(jnp.uint8)
                images = pixels.astype(jnp.float32) / 255
        predicted, seen = classify_batch(
            logits_fn, images, mask_key, start, config, votes, vote
        )
        decibels = quality.psnr(clean, seen) if seen.shape == clean.shape else None
        right, finite = predicted == labels, is_finite(seen)
        waiting.append((start, size, right, decibels, counted, pixels, finite))
        read_down_to(batches_ahead())
    read_down_to(0)
    saved = None
    if to_save:
        arrays = np.concatenate(to_save), dataset.labels, np.array(correct)
        saved = save.write(name, *arrays)
    return Cell(
        threat,
        name[-1],
        None if threat == "clean" else attack,
        defense,
        tuple(correct),
        tuple(psnr),
        queries,
        not_finite,
        dict(sorted(given_up.items())),
        seed,
        saved,
    )


def evaluate(
    logits_fn: Callable[[jax.Array], jax.Array],
    dataset: Dataset,
    defenses: Mapping[str, TransformConfig | None],
    *,
    threats: tuple[str, ...] = THREATS,
    attacks: Mapping[str, AttackSettings] = PAPER_PGD,
    seed: int = 0,
    votes: int = 1,
    vote: str = "logits",
    surrogate: Callable[[jax.Array], jax.Array] | None = None,
    progress: Progress | None = None,
    done: Mapping[tuple[str, ...], dict[str, Any]] | None = None,
    save: AttackedImages | None = None,
    store: Callable[[list[dict[str, Any]]], None] = lambda cells: None,
    stamp: Mapping[str, Any] = types.MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Measures every attack under every threat against every defence.

    Args:
        logits_fn, dataset, seed, votes, vote, surrogate: as in `measure`; there is no
            black-box attack without a surrogate.
        defenses: name to settings; None stands for the bare network.
        threats: which of `THREATS`.
        attacks: preset's name to settings; a threat takes those that are its own
            (`train.threats.attackers.ATTACKS_OF`).
        progress: where to show how far it is; None shows nothing.
        done: summaries measured before, by `cell_name`; not measured again.
        save: where to write the attacked images; as in `measure`.
        store: called with all summaries so far after each that was measured.
        stamp: entries for every summary, such as the date.

    Returns:
        The summaries of the cells (see `Cell.summary`), in order.
    """
    progress = progress or Progress(quiet=True)
    cells, attacked = [], {}
    for defense, config, threat, attack in planned(
        defenses, threats, attacks, surrogate is not None
    ):
        name = planned_name(defense, config, threat, attack, save is not None)
        found = (done or {}).get(name)
        if found is None:
            title = f"{threat}, defense {defense}"
            with progress.stage(title, len(dataset.images), lines=False) as advance:
                cell = measure(
                    logits_fn,
                    dataset,
                    threat,
                    defense,
                    config,
                    attack=attack,
                    seed=seed,
                    votes=votes,
                    vote=vote,
                    surrogate=surrogate,
                    attacked=attacked,
                    save=save,
                    advance=advance,
                )
            found = {**cell.summary(), **stamp}
            progress.line(describe(found))
            store([*cells, found])
        cells.append(found)
    return cells


def describe(cell: Mapping[str, Any]) -> str:
    """One line for a cell."""
    low, high = cell["accuracy_interval"]
    given_up = "".join(
        f"; the attack gave up on {count} ({why.replace('_', ' ')})"
        for why, count in cell.get("given_up", {}).items()
    )
    return (
        f"{cell['threat']}, defense {cell['defense']}: {cell['accuracy']:.1%} "
        f"[{low:.1%}, {high:.1%}] of {cell['count']}{given_up}"
    )
