"""What an attack that stops at its first success leaves, beside one in a fixed ball.

    ./launch.sh bench semantics --weights=resnet56.npz --dataset=cifar10 --data_dir=DIR

Foolbox 1 and 2 look for the smallest perturbation that the bare network gets wrong, and
a transform undoes a small one more easily. Gray-box: the bare network is attacked, then
a transform with a new mask and the network answer. Writes out/semantics.json.

The rules of Foolbox 2 (foolbox/v1/attacks/gradient.py, iterative_projected_gradient.py,
adversarial.py; 1.x had them too), in the ball of `epsilon`:

    GradientSignAttack: one gradient, then 1,000 step sizes from 0.001 to 1, from the
        smallest up to the first success; again 20 finer ones below it where it is one
        of the first 20, or where there is none. Here 31 lie in the ball.
    RandomStartProjectedGradientDescentAttack, return_early: stops at the first success.
    The same, binary_search=k: halves epsilon k times, the step size with it, towards
        the smallest that succeeds. Its epsilon grows by half where the first one fails;
        here that is the ball, and it ends.

Of all successes the nearest by mean squared error counts. An image that is wrong before
the attack stays as it is. Foolbox returns nothing where nothing succeeds; here the last
image at the largest epsilon.
"""

import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from attacks import fgsm, losses, norms, pgd
from attacks.keys import image_keys
from splic_jax import METHODS
from splic_jax.purification import COMPILER_OPTIONS
from splic_jax.transforms import TransformConfig, as_dict, replace
from train import flags as shared_flags
from train.evaluation.cells import classify_batch
from train.evaluation.statistics import share_of
from train.networks import flags as network_flags
from train.present.results import Results
from train.present.tables.listed import listed
from train.present.terminal import print_table
from train.records import provenance
from train.records.storing import require_replaceable, write_record
from train.reproductions.choice import BASE
from train.utils import errors
from train.utils.errors import UserError
from train.utils.progress import Progress

FLAGS = flags.FLAGS
BATCH = 50
EPSILON, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 7
STEP_SIZES = np.arange(1, 1001, dtype=np.float32) / 1000  # of GradientSignAttack
FINER = 20

Network = Callable[[Array], Array]
Images = Float[Array, "n h w c"]
Labels = Int[Array, " n"]
Numbers = Float[Array, " n"]

TRANSFORMS: dict[str, TransformConfig | None] = {
    "none": None,
    "Soft-Impute": METHODS["soft_impute"].config,
    "nuclear norm": METHODS["nuclear_norm"].config,
    "SPLIC, lambda 0.02": replace(BASE, {"tv_weight": 0.02}),
    "SPLIC, lambda 0.15": replace(BASE, {"tv_weight": 0.15}),
}


class Nearest(NamedTuple):
    """The nearest success so far.

    Attributes:
        images: these, or what the attack starts from.
        distance: mean squared error to the clean image; infinite without a success.
    """

    images: Images
    distance: Numbers


def wrong(network: Network, images: Images, labels: Labels) -> Bool[Array, " n"]:
    """Which images the network gets wrong."""
    return network(images).argmax(axis=-1) != labels


def gradient_sign(
    network: Network, images: Images, labels: Labels
) -> tuple[Images, Bool[Array, " n"]]:
    """The signs of the gradient of the loss, and which images are wrong."""

    def loss(x: Images) -> tuple[Array, Array]:
        logits = network(x)
        return losses.cross_entropy(logits, labels).sum(), logits

    slope, logits = jax.grad(loss, has_aux=True)(images)
    return jnp.sign(slope), logits.argmax(axis=-1) != labels


def nearer(nearest: Nearest, found: Images, hit: Array, clean: Images) -> Nearest:
    """The nearest success, of those so far and those of `found` that `hit` names."""
    distance = jnp.where(hit, jnp.square(found - clean).mean((1, 2, 3)), jnp.inf)
    better = distance < nearest.distance
    return Nearest(
        jnp.where(norms.per_image(better), found, nearest.images),
        jnp.minimum(distance, nearest.distance),
    )


def begin(images: Images, already: Bool[Array, " n"]) -> Nearest:
    """Images that are wrong already are at distance 0."""
    return Nearest(images, jnp.where(already, 0.0, jnp.inf))


def ended(nearest: Nearest, largest: Images) -> Images:
    """The nearest successes, and where there is none the image in `largest`."""
    found = jnp.isfinite(nearest.distance)
    return jnp.where(norms.per_image(found), nearest.images, largest)


def least_fgsm(
    network: Network, images: Images, labels: Labels, *, epsilon: float = EPSILON
) -> Images:
    """`GradientSignAttack` with its default step sizes, those within the ball."""
    signs, already = gradient_sign(network, images, labels)

    def moved(size: Array) -> Images:
        return jnp.clip(images + norms.per_image(size) * signs, 0, 1)

    def scan(
        nearest: Nearest, sizes: Float[Array, "k n"], tried: Bool[Array, " n"]
    ) -> tuple[Nearest, Bool[Array, "k n"]]:
        """Tries sizes in order; what succeeds first is the nearest."""

        def attempt(nearest: Nearest, size: Numbers) -> tuple[Nearest, Array]:
            hit = tried & wrong(network, moved(size), labels)
            return nearer(nearest, moved(size), hit, images), hit

        return jax.lax.scan(attempt, nearest, sizes)

    sizes = jnp.asarray(STEP_SIZES[STEP_SIZES <= epsilon])
    every = jnp.broadcast_to(sizes[:, None], (len(sizes), len(images)))
    nearest, hits = scan(begin(images, already), every, ~already)
    place = jnp.where(hits.any(axis=0), hits.argmax(axis=0), len(sizes) - 1)
    again = ~hits.any(axis=0) | (place < FINER)
    finer = jnp.arange(1, FINER + 1)[:, None] / FINER * sizes[place]
    nearest, _ = scan(nearest, finer, again)
    return ended(nearest, moved(jnp.full(len(images), epsilon)))


def pgd_until_success(
    network: Network,
    images: Images,
    labels: Labels,
    keys: PRNGKeyArray,
    epsilon: Numbers,
    step_size: Numbers,
    steps: int,
) -> tuple[Images, Bool[Array, " n"]]:
    """One run, in which an image stays where it is once it succeeds.

    Args:
        network: images to logits.
        images, labels: clean, and their classes.
        keys: of each image's start.
        epsilon, step_size: for each image.
        steps: at most.

    Returns:
        The images, and which succeeded.
    """
    noise = jax.vmap(lambda key, x: jax.random.uniform(key, x.shape, minval=-1))
    offset = norms.per_image(epsilon) * noise(keys, images)
    start = jnp.clip(images + offset, 0, 1)

    def step(carry: tuple[Images, Array], index: Array):
        x, hit = carry
        signs, is_wrong = gradient_sign(network, x, labels)
        hit |= is_wrong & (index > 0)  # the start itself is not looked at
        moved = x + norms.per_image(step_size) * signs
        moved = norms.project(moved, images, epsilon, "linf")
        return (jnp.where(norms.per_image(hit), x, moved), hit), None

    none_yet = jnp.zeros(len(images), bool)
    (x, hit), _ = jax.lax.scan(step, (start, none_yet), jnp.arange(steps))
    return x, hit | wrong(network, x, labels)


def stopping_pgd(
    network: Network,
    images: Images,
    labels: Labels,
    key: PRNGKeyArray,
    first_index: Array,
    *,
    halvings: int = 0,
    epsilon: float = EPSILON,
    step_size: float = STEP_SIZE,
    steps: int = STEPS,
) -> Images:
    """`RandomStartProjectedGradientDescentAttack`, binary_search=halvings."""

    def run(key: PRNGKeyArray, radius: Numbers) -> tuple[Images, Array]:
        keys = image_keys(key, first_index, images)
        step = step_size / epsilon * radius
        return pgd_until_success(network, images, labels, keys, radius, step, steps)

    def halve(
        carry: tuple[Nearest, Numbers, Numbers], key: PRNGKeyArray
    ) -> tuple[tuple[Nearest, Numbers, Numbers], None]:
        nearest, bad, good = carry
        middle = (bad + good) / 2
        found, hit = run(key, middle)
        nearest = nearer(nearest, found, hit & succeeded, images)
        return (
            nearest,
            jnp.where(hit, bad, middle),
            jnp.where(hit, middle, good),
        ), None

    keys = jax.random.split(key, halvings + 1)
    whole = jnp.full(len(images), epsilon)
    largest, succeeded = run(keys[0], whole)
    nearest = begin(images, wrong(network, images, labels))
    nearest = nearer(nearest, largest, succeeded, images)
    start = nearest, jnp.zeros_like(whole), whole
    (nearest, _, _), _ = jax.lax.scan(halve, start, keys[1:])
    return ended(nearest, largest)


Attack = Callable[[Network, Images, Labels, PRNGKeyArray, Array], Images]


def _in_ball(attack: Callable) -> Attack:
    """An attack of `attacks`, whose defaults are the paper's settings."""

    def run(network, images, labels, key, first_index):
        logits = lambda x, key: network(x)  # noqa: E731
        return attack(logits, images, labels, key, first_index=first_index).images

    return run


def _without_key(network, images, labels, key, first_index):
    del key, first_index
    return least_fgsm(network, images, labels)


def attacks(halvings: int) -> dict[str, tuple[str, Attack]]:
    """Name to words and attack."""
    return {
        "fgsm": ("FGSM in the ball", _in_ball(fgsm)),
        "fgsm_least": ("FGSM, least epsilon", _without_key),
        "pgd": ("PGD-7 in the ball", _in_ball(pgd)),
        "pgd_first": ("PGD-7, first success", stopping_pgd),
        "pgd_least": (
            "PGD-7, least epsilon",
            partial(stopping_pgd, halvings=halvings),
        ),
    }


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    network_flags.define_network_flags("out/quickstart/bare")
    flags.adopt_module_key_flags(network_flags)
    flags.DEFINE_integer(
        "skip", 200, "test images left out, from the first on", lower_bound=0
    )
    flags.DEFINE_integer("num_images", 400, "test images", lower_bound=1)
    flags.DEFINE_integer(
        "halvings", 8, "of epsilon by the binary search; Foolbox has 20", lower_bound=1
    )
    flags.DEFINE_integer("seed", 0, "of attacks and masks", lower_bound=0)
    flags.DEFINE_string("out", "out/semantics.json", "JSON file for the results")


def judged(correct: Sequence[bool]) -> dict:
    """What the record says of one number."""
    return {
        "count": len(correct),
        "correct": sum(correct),
        **share_of(sum(correct), len(correct)),
        "correct_by_image": "".join("01"[right] for right in correct),
    }


def main(argv: Sequence[str]) -> None:
    del argv
    require_replaceable(pathlib.Path(FLAGS.out))
    dataset = shared_flags.dataset_from_flags("test")
    classifier = network_flags.network_for(dataset)
    chosen = slice(FLAGS.skip, FLAGS.skip + FLAGS.num_images)
    clean = dataset.images[chosen].astype(np.float32) / 255
    labels = dataset.labels[chosen]
    if len(clean) < FLAGS.num_images:
        raise UserError(
            f"--skip={FLAGS.skip} and --num_images={FLAGS.num_images} are more than "
            f"the {len(dataset.images)} test images"
        )
    attack_key, mask_key = jax.random.split(jax.random.key(FLAGS.seed))
    progress = Progress()
    found = attacks(FLAGS.halvings)
    rows = [{"transform": name} for name in TRANSFORMS]
    sizes = {}
    for name, (words, attack) in {"clean": ("no attack", None), **found}.items():
        run = attack and jax.jit(
            partial(attack, classifier.logits), compiler_options=COMPILER_OPTIONS
        )
        correct, size = {name: [] for name in TRANSFORMS}, []
        with progress.stage(words, len(clean), lines=False) as advance:
            for start in range(0, len(clean), BATCH):
                batch = slice(start, start + BATCH)
                x, y = jnp.asarray(clean[batch]), jnp.asarray(labels[batch])
                attacked = run(x, y, attack_key, start) if run else x
                size += np.asarray(norms.size(attacked - x, "linf")).tolist()
                for transform, config in TRANSFORMS.items():
                    answers, _ = classify_batch(
                        classifier.logits, attacked, mask_key, start, config
                    )
                    correct[transform] += np.asarray(answers == y).tolist()
                advance(len(x))
        for row in rows:
            row[name] = judged(correct[row["transform"]])
        if run:
            sizes[name] = {
                "mean": float(np.mean(size)),
                "median": float(np.median(size)),
            }
    record = {
        "provenance": provenance.provenance(),
        "dataset": dataset.record("test", len(clean)) | {"skipped": FLAGS.skip},
        "network": classifier.record,
        "attacks": {name: words for name, (words, _) in found.items()},
        "epsilon": EPSILON,
        "step_size": STEP_SIZE,
        "steps": STEPS,
        "halvings": FLAGS.halvings,
        "seed": FLAGS.seed,
        "transforms": {
            name: config and as_dict(config) for name, config in TRANSFORMS.items()
        },
        # The largest change of a pixel, over the images.
        "perturbation": sizes,
        "rows": rows,
    }
    write_record(pathlib.Path(FLAGS.out), record)
    shown = listed(Results(records={"semantics.json": record}), "semantics")
    print_table(shown)


if __name__ == "__main__":
    define_flags()
    errors.run(main)
