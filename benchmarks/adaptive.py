"""Accuracy of a random defense under adaptive attacks, at equal budgets.

    ./launch.sh bench adaptive --checkpoint=out/train --dataset=cifar10 --data_dir=DIR

PGD attacks a network behind a random low-rank transform, with the same number of
gradients per image in each row: through the network alone, with the identity for the
transform's derivative (BPDA), and through the derivative itself, the latter two with
one mask per step or several (EOT). All results are judged with fresh masks. Writes
out/adaptive.json, row by row.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from attacks import bpda, judge, pgd
from splic_jax import SPLICConfig, purify
from splic_jax.purification import COMPILER_OPTIONS
from splic_jax.solvers import exact
from train import flags as shared_flags
from train.evaluation.statistics import mean_interval
from train.networks import flags as network_flags
from train.present.terminal import print_rows
from train.records import provenance
from train.records.storing import require_replaceable, write_record
from train.utils import errors
from train.utils.errors import UserError
from train.utils.progress import Progress

FLAGS = flags.FLAGS
BATCH = 32
RANK, OBSERVED = 8, 0.5


# A random transform, ``(images, key, first_index) -> images``, with a derivative.
Defense = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Attacker:
    """A row of the table.

    Attributes:
        name: in words.
        path: of the gradient: "network", "bpda" or "gradient".
        eot: whether each step averages over masks.
    """

    name: str
    path: str
    eot: bool


ATTACKERS = (
    Attacker("network alone", "network", False),
    Attacker("BPDA", "bpda", False),
    Attacker("BPDA + EOT", "bpda", True),
    Attacker("true gradient", "gradient", False),
    Attacker("true gradient + EOT", "gradient", True),
)


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    network_flags.define_network_flags("out/quickstart/splic")
    flags.adopt_module_key_flags(network_flags)
    flags.DEFINE_enum("defense", "usvt", ["usvt", "splic"], "the random transform")
    flags.DEFINE_integer("num_images", 128, "test images", lower_bound=2)
    flags.DEFINE_integer("budget", 200, "gradients for each image", lower_bound=1)
    flags.DEFINE_integer("samples", 10, "masks a step with EOT", lower_bound=1)
    flags.DEFINE_integer("evaluations", 10, "masks to judge with", lower_bound=1)
    flags.DEFINE_float("epsilon", 8.0, "L-infinity radius, in 1/255", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "of attacks and masks", lower_bound=0)
    flags.DEFINE_string("out", "out/adaptive.json", "JSON file for the results")


def usvt(images: jax.Array, key: jax.Array, first_index: jax.Array) -> jax.Array:
    """ME-Net's USVT: half of the pixels, divided by their share, cut to rank 8.

    Pixels in [-1, 1], one matrix per channel, one mask per image; differentiable.
    """

    def one(image: jax.Array, index: jax.Array) -> jax.Array:
        kept = jax.random.bernoulli(
            jax.random.fold_in(key, index), OBSERVED, image.shape[:2]
        )
        observed = (2 * image - 1) * kept[..., None] / OBSERVED
        cut = functools.partial(
            exact.cut_and_descend, rank=RANK, step_size=1.0, relative=True
        )
        low_rank = jax.vmap(lambda x: cut(x, 1.0)[0], in_axes=-1, out_axes=-1)(observed)
        return jnp.clip((low_rank + 1) / 2, 0, 1)

    return jax.vmap(one)(images, first_index + jnp.arange(len(images)))


def defense_from_flags() -> Defense:
    """The transform that --defense names."""
    if FLAGS.defense == "usvt":
        return usvt

    def splic(images, key, first_index):
        return purify(images, key, SPLICConfig(), first_index=first_index)

    return splic


def attack_batch(
    network: Callable,
    defense: Defense,
    attacker: Attacker,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    first_index: jax.Array,
) -> jax.Array:
    """Attacks a batch with the budget of the flags."""

    def logits(images, key):
        if attacker.path == "bpda":
            defend = lambda x, k: defense(x, k, first_index)  # noqa: E731
            images = bpda(defend)(images, key)
        elif attacker.path == "gradient":
            images = defense(images, key, first_index)
        return network(images)

    samples = FLAGS.samples if attacker.eot else 1
    epsilon, steps = FLAGS.epsilon / 255, FLAGS.budget // samples
    return pgd(
        logits,
        images,
        labels,
        key,
        epsilon=epsilon,
        # The steps add up to 2.5 epsilon, or more where a step would be below 1/1020.
        step_size=jnp.maximum(2.5 * epsilon / steps, 1 / 255 / 4),
        steps=steps,
        eot_samples=samples,
        first_index=first_index,
    ).images


def main(argv: Sequence[str]) -> None:
    del argv
    require_replaceable(pathlib.Path(FLAGS.out))
    dataset = shared_flags.dataset_from_flags("test")
    classifier = network_flags.network_for(dataset)
    network = classifier.logits
    if FLAGS.budget % FLAGS.samples:
        raise UserError("--budget must be a multiple of --samples")
    images = dataset.images[: FLAGS.num_images].astype(np.float32) / 255
    labels = dataset.labels[: FLAGS.num_images]
    defense = defense_from_flags()
    attack_key, judge_key = jax.random.split(jax.random.key(FLAGS.seed))
    path, progress, rows = pathlib.Path(FLAGS.out), Progress(), []
    record = {
        "provenance": provenance.provenance(),
        "dataset": dataset.record("test", len(images)),
        "network": classifier.record,
        "defense": FLAGS.defense,
        "epsilon": FLAGS.epsilon / 255,
        "budget": FLAGS.budget,
        "samples": FLAGS.samples,
        "evaluations": FLAGS.evaluations,
        "seed": FLAGS.seed,
    }

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def verdict(images, labels, first_index):
        def defended(images, key):
            return network(defense(images, key, first_index))

        judged = judge(
            defended, images, labels, judge_key, evaluations=FLAGS.evaluations
        )
        return judged.accuracy, judged.majority

    for attacker in (None, *ATTACKERS):
        name = attacker.name if attacker else "no attack"
        attack = attacker and jax.jit(
            functools.partial(attack_batch, network, defense, attacker),
            compiler_options=COMPILER_OPTIONS,
        )
        accuracy, majority = [], []
        with progress.stage(name, len(images), lines=False) as advance:
            for start in range(0, len(images), BATCH):
                x, y = images[start : start + BATCH], labels[start : start + BATCH]
                if attack:
                    x = attack(x, y, attack_key, start)
                share, voted = verdict(x, y, start)
                accuracy += np.asarray(share).tolist()
                majority += np.asarray(voted).tolist()
                advance(len(x))
        interval = mean_interval(np.asarray(accuracy))
        rows.append(
            {
                "attack": name,
                "steps": attacker
                and FLAGS.budget // (FLAGS.samples if attacker.eot else 1),
                "masks_a_step": attacker and (FLAGS.samples if attacker.eot else 1),
                "accuracy": interval,
                "majority": float(np.mean(majority)),
                "accuracy_by_image": accuracy,
            }
        )
        write_record(path, {**record, "rows": rows})
        progress.line(
            f"{name}: {interval['mean']:.1%} +- {interval['half_width']:.1%}, "
            f"by vote {np.mean(majority):.1%}"
        )
    show(rows)


def show(rows: Sequence[dict]) -> None:
    """Prints the rows as a table."""
    print_rows(
        f"{FLAGS.defense}, mean over {FLAGS.evaluations} masks, 95 %",
        ("attack",),
        ("steps", "masks a step", "accuracy", "+-", "by vote"),
        [
            (
                row["attack"],
                str(row["steps"] or "-"),
                str(row["masks_a_step"] or "-"),
                f"{row['accuracy']['mean']:.1%}",
                f"{row['accuracy']['half_width']:.1%}",
                f"{row['majority']:.1%}",
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    define_flags()
    errors.run(main)
