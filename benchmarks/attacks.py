"""Images attacked per second: ours, Foolbox on the same JAX model, PyTorch's.

    ./launch.sh bench attacks --weights=resnet20.npz --dataset=cifar10 --data_dir=DIR
    ./launch.sh bench attacks --checkpoint=out/train --dataset=cifar10 --data_dir=DIR

Every library attacks the same images with the same weights and settings, after a first
run that compiles. PyTorch's attacks are torchattacks', on a twin of the network whose
logits are compared first; where PyTorch is missing its rows are left out, and it says
so. Beside the attacks stands the network alone, and which share of an attack's time
the network's calls in it take by themselves. Writes out/attacks.json.
"""

import collections
import functools
import importlib.util
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

import attacks
from benchmarks._twins import difference, torch_twin
from train import flags as shared_flags
from train.networks import flags as network_flags
from train.present.terminal import print_rows
from train.records import provenance
from train.records.storing import require_replaceable, write_record
from train.utils import errors
from train.utils.progress import Progress

FLAGS = flags.FLAGS
EPSILON, STEP, L2_EPSILON = 8 / 255, 2 / 255, 0.5
OURS, FOOLBOX, TORCH = "this", "Foolbox (JAX)", "torchattacks (PyTorch)"
SHORT_S = 1.0
LOGITS, GRADIENT = "network alone, logits", "network alone, gradient"
Network = Callable[[jax.Array], jax.Array]


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    network_flags.define_network_flags("out/quickstart/bare")
    flags.adopt_module_key_flags(network_flags)
    flags.DEFINE_integer("num_images", 64, "images, one batch", lower_bound=1)
    flags.DEFINE_integer(
        "cw_steps", 50, "steps for each constant of C&W", lower_bound=1
    )
    flags.DEFINE_integer("apgd_steps", 50, "steps of APGD", lower_bound=1)
    flags.DEFINE_integer("fab_steps", 10, "steps of FAB for each target", lower_bound=1)
    flags.DEFINE_integer("square_queries", 300, "queries of Square", lower_bound=1)
    flags.DEFINE_integer("repeats", 3, "timed runs; the median counts", lower_bound=1)
    flags.DEFINE_string("out", "out/attacks.json", "JSON file for the results")


def our_attacks(network: Network) -> Mapping[str, Callable]:
    """Name of the work -> ``(images, labels, key) -> Attacked``."""

    def on(attack: Callable, **options: Any) -> Callable:
        return functools.partial(attack, lambda x, _: network(x), **options)

    pgd = functools.partial(on, attacks.pgd, epsilon=EPSILON, step_size=STEP)
    cw = functools.partial(
        on,
        attacks.carlini_wagner,
        confidence=20.0,
        steps=FLAGS.cw_steps,
        abort_early=False,
    )
    return {
        "FGSM": on(attacks.fgsm, epsilon=EPSILON),
        "PGD-7": pgd(),
        "PGD-50": pgd(steps=50),
        "PGD-50, L2": pgd(epsilon=L2_EPSILON, step_size=0.1, steps=50, norm="l2"),
        "C&W, 5 constants": cw(binary_search_steps=5),
        "C&W, 1 constant": cw(binary_search_steps=1, initial_const=1.0),
        "APGD-CE": on(attacks.autopgd, epsilon=EPSILON, steps=FLAGS.apgd_steps),
        "FAB-T": on(
            attacks.fab, epsilon=EPSILON, steps=FLAGS.fab_steps, target_classes=9
        ),
        "Square": on(attacks.square, epsilon=EPSILON, queries=FLAGS.square_queries),
    }


def ours(
    network: Network, images: jax.Array, labels: jax.Array
) -> Mapping[str, Callable]:
    """Name of the work -> a run of it, compiled."""
    key = jax.random.key(0)

    def run(function: Callable, *arguments: Any) -> Callable:
        compiled = jax.jit(function)
        return lambda: jax.block_until_ready(compiled(*arguments))

    def loss(images: jax.Array) -> jax.Array:
        return attacks.losses.cross_entropy(network(images), labels).sum()

    return {
        LOGITS: run(network, images),
        GRADIENT: run(jax.grad(loss), images),
        **{
            name: run(attack, images, labels, key)
            for name, attack in our_attacks(network).items()
        },
    }


def calls(
    network: Network, images: jax.Array, labels: jax.Array
) -> dict[str, dict[str, int]]:
    """How often each attack has a batch's logits computed, and their derivative."""
    counter: collections.Counter = collections.Counter()

    @jax.custom_vjp
    def counted(images: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: counter.update(["logits"]))
        return network(images)

    def forward(images: jax.Array) -> tuple[jax.Array, Any]:
        jax.debug.callback(lambda: counter.update(["logits"]))
        return jax.vjp(network, images)

    def backward(pull: Any, slopes: jax.Array) -> Any:
        jax.debug.callback(lambda: counter.update(["derivatives"]))
        return pull(slopes)

    counted.defvjp(forward, backward)
    found = {}
    for name, attack in our_attacks(counted).items():
        counter.clear()
        jax.block_until_ready(jax.jit(attack)(images, labels, jax.random.key(0)))
        jax.effects_barrier()
        found[name] = {kind: counter[kind] for kind in ("logits", "derivatives")}
    return found


def foolboxes(network: Callable, images: jax.Array, labels: jax.Array) -> Mapping:
    """The same of Foolbox, on the same network, which is compiled."""
    import foolbox

    model = foolbox.JAXModel(jax.jit(network), bounds=(0, 1))

    def run(attack: Any, epsilon: float | None) -> Callable:
        return lambda: jax.block_until_ready(
            attack(model, images, labels, epsilons=epsilon)[1]
        )

    def cw(searches: int, const: float) -> Callable:
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=searches,
            steps=FLAGS.cw_steps,
            stepsize=0.005,
            confidence=20.0,
            initial_const=const,
            abort_early=False,
        )
        return run(attack, None)

    linf = functools.partial(
        foolbox.attacks.LinfPGD, rel_stepsize=None, abs_stepsize=STEP
    )
    l2 = foolbox.attacks.L2PGD(rel_stepsize=None, abs_stepsize=0.1, steps=50)
    return {
        "FGSM": run(foolbox.attacks.FGSM(), EPSILON),
        "PGD-7": run(linf(steps=7), EPSILON),
        "PGD-50": run(linf(steps=50), EPSILON),
        "PGD-50, L2": run(l2, L2_EPSILON),
        "C&W, 5 constants": cw(5, 0.01),
        "C&W, 1 constant": cw(1, 1.0),
    }


def torches(twin: Any, images: np.ndarray, labels: np.ndarray) -> Mapping:
    """The same of torchattacks, on the twin."""
    import torch
    import torchattacks

    x = torch.tensor(images).permute(0, 3, 1, 2).contiguous()
    y = torch.tensor(labels).long()

    def run(name: str, **options: Any) -> Callable:
        attack = getattr(torchattacks, name)(twin, **options)
        return lambda: attack(x, y)

    def logits() -> None:
        with torch.no_grad():
            twin(x)

    def gradient() -> None:
        pixels = x.clone().requires_grad_()
        torch.nn.functional.cross_entropy(twin(pixels), y, reduction="sum").backward()

    pgd = functools.partial(run, "PGD", eps=EPSILON, alpha=STEP)
    return {
        LOGITS: logits,
        GRADIENT: gradient,
        "FGSM": run("FGSM", eps=EPSILON),
        "PGD-7": pgd(steps=7),
        "PGD-50": pgd(steps=50),
        "PGD-50, L2": run("PGDL2", eps=L2_EPSILON, alpha=0.1, steps=50),
        "C&W, 1 constant": run("CW", c=1, kappa=20, steps=FLAGS.cw_steps, lr=0.005),
        "APGD-CE": run("APGD", eps=EPSILON, steps=FLAGS.apgd_steps),
        "FAB-T": run(
            "FAB",
            eps=EPSILON,
            steps=FLAGS.fab_steps,
            n_classes=10,
            multi_targeted=True,
        ),
        "Square": run("Square", eps=EPSILON, n_queries=FLAGS.square_queries),
    }


def main(argv: Sequence[str]) -> None:
    del argv
    require_replaceable(pathlib.Path(FLAGS.out))
    dataset = shared_flags.dataset_from_flags("test")
    classifier = network_flags.network_for(dataset)
    network = classifier.logits
    images = dataset.images[: FLAGS.num_images].astype(np.float32) / 255
    labels = dataset.labels[: FLAGS.num_images]
    progress = Progress()
    arrays = jnp.asarray(images), jnp.asarray(labels)
    libraries = {OURS: ours(network, *arrays), FOOLBOX: foolboxes(network, *arrays)}
    twins_differ = None
    if classifier.split is None:
        progress.line(f"{TORCH} is left out: it has no twin of {classifier.name}")
    elif importlib.util.find_spec("torch") and importlib.util.find_spec("torchattacks"):
        twin = torch_twin(nnx.merge(*classifier.split))
        twins_differ = difference(network, twin, images)
        libraries[TORCH] = torches(twin, images, labels)
    else:
        progress.line(f"{TORCH} is not installed and left out (see ./launch.sh test)")
    correct = np.argmax(jax.jit(network)(arrays[0]), axis=1) == labels
    rows: list[dict[str, Any]] = []
    counts = calls(network, *arrays)
    alone = {}
    record = {
        "provenance": provenance.provenance(),
        "dataset": dataset.record("test", len(images)),
        "network": classifier.record,
        "clean_accuracy": float(correct.mean()),
        "largest_difference_of_logits": twins_differ,
        "settings": {
            name: FLAGS[name].value
            for name in ("cw_steps", "apgd_steps", "fab_steps", "square_queries")
        },
    }
    for work in libraries[OURS]:
        runs = {name: works[work] for name, works in libraries.items() if work in works}
        progress.line(f"{work}: {', '.join(runs)}")
        taken = seconds(runs)
        fastest = statistics.median(taken[OURS])
        for name, times in taken.items():
            median = statistics.median(times)
            rows.append(
                {
                    "work": work,
                    "library": name,
                    "seconds": times,
                    "images_per_second": len(images) / median,
                    "ratio": median / fastest,
                }
            )
        if work not in counts:
            alone[work] = fastest
        else:
            count = counts[work]
            derivative = alone[GRADIENT] - alone[LOGITS]
            network_s = count["logits"] * alone[LOGITS]
            network_s += count["derivatives"] * derivative
            share = network_s / fastest
            rows[-len(taken)].update(calls=count, share_of_the_network=share)
        write_record(pathlib.Path(FLAGS.out), {**record, "rows": rows})
    show(rows)


def seconds(runs: Mapping[str, Callable]) -> dict[str, list[float]]:
    """Times of each library's runs, which take turns, after one that compiles.

    A short run depends on what the run before it left in memory and of busy threads, so
    each timed one comes after another of its library, which is not timed.
    """
    for run in runs.values():
        run()
    taken = {name: [] for name in runs}
    for _ in range(FLAGS.repeats):
        for name, run in runs.items():
            first = timed(run)
            taken[name].append(timed(run) if first < SHORT_S else first)
    return taken


def timed(run: Callable) -> float:
    """Seconds that a run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows as a table."""
    cells = [
        (
            row["work"],
            row["library"],
            f"{row['images_per_second']:.3g}",
            f"{row['ratio']:.2f}",
        )
        for row in rows
    ]
    caption = "ratio: time as a multiple of ours"
    print_rows(caption, ("work", "library"), ("images/s", "ratio"), cells)


if __name__ == "__main__":
    define_flags()
    errors.run(main)
