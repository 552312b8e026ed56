"""Trains a classifier, on images as they are or transformed, attacked or not.

    python -m train.train --out=out/bare
    python -m train.train --defense=splic --out=out/splic
    python -m train.train --adversarial=fast --out=out/fast
    python -m train.train --defense=splic --adversarial=pgd --out=out/both
    python -m train.train --dataset=cifar10 --data_dir=DIR --model=resnet18 --epochs=100

The run's folder gets `run.json`, `metrics.jsonl`, checkpoints, and TensorBoard events:
curves, test images as they are and transformed, training images attacked. The
same command goes on where an interrupted run stopped, bit for bit; checkpoints are
written while the next epoch is trained.
`train.training.checkpoints.load_checkpoint` reads the result.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from absl import flags
from flax import nnx

from splic_jax import METHODS
from splic_jax.transforms import RENAMED, TransformConfig
from train import flags as shared_flags
from train import models
from train.networks import exported
from train.networks.classifier import from_weights
from train.recipes import RECIPES, Recipe, name_of
from train.training.checkpoints import weights_checksum
from train.training.loop import train
from train.training.settings import COMPUTE_DTYPES, TrainSettings
from train.utils import compilation, errors
from train.utils.errors import UserError
from train.utils.progress import Progress

FLAGS = flags.FLAGS
# Flags with the names and values of fields of `TrainSettings`.
_PLAIN = (
    "model masks_per_image epochs batch_size learning_rate momentum weight_decay seed "
    "compute_dtype"
).split()


class _DefenseParser(flags.EnumParser):
    """Names of transforms, with a hint for one that has another name now."""

    def parse(self, argument: str) -> str:
        if argument in RENAMED:
            raise ValueError(RENAMED[argument])
        return super().parse(argument)


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags(judged=False)
    shared_flags.define_splic_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    default = TrainSettings()
    flags.DEFINE_enum("model", default.model, models.NAMES, "the network")
    flags.DEFINE_string(
        "init",
        None,
        "file of the weights to start from, as `evaluate --weights` takes them without "
        "--network; default weights drawn at random",
    )
    flags.DEFINE(
        _DefenseParser(["none", *METHODS]),
        "defense",
        "none",
        "train on images as they are (none), or behind a transform: "
        + ", ".join(METHODS),
        serializer=flags.ArgumentSerializer(),
    )
    flags.DEFINE_integer(
        "masks_per_image",
        default.masks_per_image,
        "transformed versions of each image; each epoch draws one of them",
        lower_bound=1,
    )
    for end, which in (("start", "first"), ("end", "last")):
        flags.DEFINE_float(
            f"mask_{end}",
            None,
            f"keep probability of the {which} of --masks_per_image versions; more lie "
            "evenly between, and tests use the mean",
            lower_bound=0,
            upper_bound=1,
        )
    flags.DEFINE_enum(
        "adversarial", "none", list(RECIPES), "how batches are attacked, and the loss"
    )
    flags.DEFINE_float(
        "epsilon",
        None,
        "radius of these attacks, in 1/255; default 8",
        lower_bound=0,
        upper_bound=255,
    )
    flags.DEFINE_list(
        "ensemble",
        [],
        "folders of trained networks, to be attacked by --adversarial=ensemble",
    )
    shared_flags.define_option_flag()
    flags.DEFINE_integer("epochs", default.epochs, "epochs", lower_bound=1)
    flags.DEFINE_integer("batch_size", default.batch_size, "images", lower_bound=1)
    flags.DEFINE_float("learning_rate", default.learning_rate, "at the first step")
    flags.DEFINE_float("momentum", default.momentum, "Nesterov momentum")
    flags.DEFINE_float("weight_decay", default.weight_decay, "L2 penalty")
    flags.DEFINE_enum(
        "compute_dtype",
        default.compute_dtype,
        COMPUTE_DTYPES,
        "of the network in training; parameters, statistics and loss are float32",
    )
    flags.DEFINE_integer("seed", default.seed, "weights, order, augmentation and masks")
    flags.DEFINE_string("out", "out/train", "folder of the run")
    flags.DEFINE_string(
        "export",
        None,
        "file for the trained weights, .safetensors, which `evaluate --weights` takes",
    )
    flags.DEFINE_string("cache_dir", "out/purified", "folder of purified images")
    flags.DEFINE_integer(
        "checkpoint_every", 1, "epochs between checkpoints", lower_bound=1
    )
    compilation.define_flag("`compiled` in --out")
    flags.adopt_module_key_flags(compilation)


def settings_from_flags(initial: nnx.State | None = None) -> TrainSettings:
    """Returns the settings that the flags ask for.

    Args:
        initial: the weights to start from, if any.

    Raises:
        UserError: for a value that makes no sense, naming the flag.
    """
    defense, adversarial = _defense_and_recipe_from_flags()
    keep_range = None
    if FLAGS.mask_start is not None or FLAGS.mask_end is not None:
        keep_range = (FLAGS.mask_start, FLAGS.mask_end)
        if None in keep_range:
            raise UserError("--mask_start and --mask_end go together; give both")
        if not hasattr(defense, "keep_probability"):
            raise UserError("--mask_start needs a --defense that masks, such as splic")
    try:
        if keep_range:
            middle = sum(keep_range) / 2
            defense = dataclasses.replace(defense, keep_probability=middle)
        return TrainSettings(
            defense=defense,
            keep_range=keep_range,
            adversarial=adversarial,
            initial_weights=initial and weights_checksum(initial),
            texture_bias=shared_flags.texture_bias_from_flags(),
            **shared_flags.values_of(*_PLAIN),
        )
    except ValueError as error:
        raise UserError(f"--{error}") from None


def _defense_and_recipe_from_flags() -> tuple[TransformConfig | None, Recipe]:
    known = {name: method.config for name, method in METHODS.items()} | RECIPES
    if FLAGS.defense in ("splic", "splic_no_tv"):
        splic = shared_flags.splic_config_from_flags()
        known["splic"] = splic
        known["splic_no_tv"] = dataclasses.replace(splic, tv_weight=0.0)
    else:
        for flag, _ in shared_flags.SPLIC_FLAGS.values():
            if FLAGS[flag].present:
                raise UserError(f"--{flag} needs --defense=splic")
    recipe = known[FLAGS.adversarial]
    if FLAGS.epsilon is not None:
        if FLAGS.adversarial == "none":
            raise UserError("--epsilon needs --adversarial, how to attack")
        recipe = dataclasses.replace(recipe, epsilon=FLAGS.epsilon / 255)
    if FLAGS.ensemble:
        if FLAGS.adversarial != "ensemble":
            raise UserError("--ensemble needs --adversarial=ensemble")
        recipe = dataclasses.replace(recipe, networks=tuple(FLAGS.ensemble))
    known[FLAGS.adversarial] = recipe
    for option in FLAGS.option:
        name = option.partition(".")[0]
        if name in known and name not in (FLAGS.defense, FLAGS.adversarial):
            flag = "adversarial" if name in RECIPES else "defense"
            raise UserError(f"--option={option} needs --{flag}={name}")
    known = shared_flags.with_options(known)
    defense = None if FLAGS.defense == "none" else known[FLAGS.defense]
    return defense, known[FLAGS.adversarial]


def main(argv: Sequence[str]) -> None:
    del argv
    initial = None
    if FLAGS.init:
        initial = from_weights(FLAGS.init, FLAGS.model, f"--init={FLAGS.init}").split[1]
    settings = settings_from_flags(initial)
    if FLAGS.export:
        exported.check_path(FLAGS.export)
    compilation.keep(pathlib.Path(FLAGS.out) / "compiled")
    dataset = shared_flags.dataset_from_flags("train")
    test_dataset = shared_flags.dataset_from_flags("test")
    progress = Progress()
    progress.line(
        f"training {settings.model} on {len(dataset.images)} images of {dataset.name}, "
        f"defense {FLAGS.defense}, adversarial {name_of(settings.adversarial)}, into "
        f"{FLAGS.out}"
    )
    trained = train(
        settings,
        dataset,
        test_dataset,
        FLAGS.out,
        initial=initial,
        cache_dir=FLAGS.cache_dir,
        checkpoint_every=FLAGS.checkpoint_every,
        progress=progress,
    )
    if FLAGS.export:
        exported.export(trained, FLAGS.export)
        progress.line(f"the weights are in {FLAGS.export} too")
    source = f" --data_dir={FLAGS.data_dir}" if FLAGS.data_dir else ""
    source += f" --resize={FLAGS.resize}" if FLAGS.resize else ""
    progress.line(
        f"done; next: ./launch.sh evaluate --dataset={FLAGS.dataset}{source} "
        f"--checkpoint={FLAGS.out}"
    )


if __name__ == "__main__":
    define_flags()
    errors.run(main)
