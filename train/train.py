"""Trains a classifier, on images as they are or as SPLIC purifies them.

    python -m train.train --out=out/bare
    python -m train.train --defense=splic --out=out/splic
    python -m train.train --dataset=cifar10 --data_dir=DIR --model=resnet18 --epochs=100

The run's folder gets `run.json`, `metrics.jsonl`, TensorBoard events and checkpoints;
the same command goes on where an interrupted run stopped, bit for bit.
`train.checkpoints.load_checkpoint` reads the result.
"""

import contextlib
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import nnx
from jaxtyping import Array, Float, Int, Int32, Key, UInt8

from train import checkpoints, compilation, data, errors, models
from train import flags as shared_flags
from train.checkpoints import LoadedModel
from train.data import Dataset
from train.errors import UserError
from train.metrics import MetricWriter
from train.progress import Progress
from train.purified import purified_dataset
from train.settings import COMPUTE_DTYPES, TrainSettings

FLAGS = flags.FLAGS
CROP_PADDING = 4
TEST_BATCH = 256


class TrainState(NamedTuple):
    """Everything that changes from step to step."""

    step: Int32[Array, ""]
    parameters: nnx.State
    statistics: nnx.State
    optimizer: optax.OptState


class StepMetrics(NamedTuple):
    """Mean cross-entropy in nats, and share of correct predictions, of one batch."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def augment(
    images: UInt8[Array, "n h w c"], key: Key[Array, ""], flips: bool
) -> Float[Array, "n h w c"]:
    """Returns floats in [0, 1]: shifted by up to 4 pixels, and half of them mirrored.

    What comes in at the border is black.
    """
    count, height, width, channels = images.shape
    crop_key, flip_key = jax.random.split(key)
    border = (CROP_PADDING, CROP_PADDING)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
    corners = jax.random.randint(crop_key, (count, 2), 0, 2 * CROP_PADDING + 1)

    def crop(image, corner):
        return jax.lax.dynamic_slice(
            image, (corner[0], corner[1], 0), (height, width, channels)
        )

    images = jax.vmap(crop)(padded, corners)
    if flips:
        mirrored = jax.random.bernoulli(flip_key, shape=(count, 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images.astype(jnp.float32) / 255


def make_optimizer(
    settings: TrainSettings, total_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns SGD with Nesterov momentum and weight decay, and its learning rate."""
    schedule = optax.cosine_decay_schedule(settings.learning_rate, total_steps)
    optimizer = optax.chain(
        optax.add_decayed_weights(settings.weight_decay),
        optax.sgd(schedule, momentum=settings.momentum, nesterov=True),
    )
    return optimizer, schedule


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    flips: bool,
    compute_dtype: str = "float32",
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Returns the compiled ``(state, images, labels, key) -> (state, metrics)``.

    `key` is the run's: each step folds its number into it. The state is donated.
    """

    def loss_function(parameters, statistics, images, labels):
        model = nnx.merge(graphdef, parameters, statistics, copy=True)
        models.prepare_training(model, compute_dtype)
        logits = model(images, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        accuracy = jnp.mean(logits.argmax(axis=-1) == labels)
        return losses.mean(), (accuracy, nnx.state(model, nnx.BatchStat))

    def train_step(
        state: TrainState,
        images: UInt8[Array, "n h w c"],
        labels: Int[Array, " n"],
        key: Key[Array, ""],
    ) -> tuple[TrainState, StepMetrics]:
        inputs = augment(images, jax.random.fold_in(key, state.step), flips)
        gradient_function = jax.value_and_grad(loss_function, has_aux=True)
        (loss, (accuracy, statistics)), gradient = gradient_function(
            state.parameters, state.statistics, inputs, labels
        )
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer, state.parameters
        )
        parameters = optax.apply_updates(state.parameters, updates)
        state = TrainState(state.step + 1, parameters, statistics, optimizer_state)
        return state, StepMetrics(loss, accuracy)

    return jax.jit(train_step, donate_argnames="state")


@jax.jit
def _correct(logits_function, images, labels):
    logits = logits_function(images.astype(jnp.float32) / 255)
    return logits.argmax(axis=-1) == labels


def accuracy_of(
    graphdef: nnx.GraphDef, variables: nnx.State, images: np.ndarray, labels: np.ndarray
) -> float:
    """Returns the share of uint8 images ``[n, h, w, c]`` classified correctly."""
    logits_function = models.logits_function(graphdef, variables)
    batch = min(TEST_BATCH, len(images))
    correct = 0
    for start in range(0, len(images), batch):
        # The last batch is filled up, because another size would compile again.
        chosen = np.arange(start, start + batch) % len(images)
        hits = _correct(logits_function, images[chosen], labels[chosen])
        correct += int(hits[: len(images) - start].sum())
    return correct / len(images)


def train(
    settings: TrainSettings,
    dataset: Dataset,
    test_dataset: Dataset,
    out_dir: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    progress: Progress | None = None,
) -> LoadedModel:
    """Trains a classifier, or goes on with the run in `out_dir`.

    Images come in the order of `train.data.batches`, every batch full; an epoch is the
    number of steps nearest to one pass. Images of "svhn_cropped" are not mirrored:
    digits are not symmetric.

    Args:
        settings: how to train.
        dataset: the training images.
        test_dataset: the images of the test accuracy after each epoch. With a defense
            they are purified as well, once.
        out_dir: folder of the run; made where it is missing.
        cache_dir: where purified images are kept; by default in `out_dir`.
        checkpoint_every: epochs between checkpoints; there is one after the last.
        progress: where to show how far it is; None shows nothing.

    Returns:
        The classifier after the last epoch, as `load_checkpoint` would read it.

    Raises:
        UserError: if `out_dir` holds a run with other settings or a damaged
            checkpoint, a folder cannot be written, or the loss is no longer finite.
    """
    progress = progress or Progress(quiet=True)
    folder = pathlib.Path(out_dir)
    if not len(dataset.images) or not len(test_dataset.images):
        raise UserError(f"{dataset.name}: no training images, or no test images")
    checkpoints.start_run(folder, settings, dataset)
    epoch = checkpoints.latest_epoch(folder) or 0
    if epoch == settings.epochs:
        progress.line(f"{folder} is trained already ({epoch} epochs)")
        return checkpoints.load_checkpoint(folder)

    cache_dir = cache_dir or folder / "purified"
    images = _model_inputs(settings, dataset, cache_dir, progress)
    test_images = _model_inputs(settings, test_dataset, cache_dir, progress, test=True)

    batch_size = min(settings.batch_size, len(dataset.images))
    epoch_steps = round(len(dataset.images) / batch_size)
    total_steps = epoch_steps * settings.epochs
    model = models.create(
        settings.model,
        len(dataset.class_names),
        settings.seed,
        channels=dataset.images.shape[-1],
    )
    graphdef, variables = models.split(model)
    parameters, statistics = nnx.split_state(variables, nnx.Param, ...)
    optimizer, schedule = make_optimizer(settings, total_steps)
    state = TrainState(jnp.int32(0), parameters, statistics, optimizer.init(parameters))
    if epoch:
        state = _restore(folder, epoch, state)
        progress.line(f"resuming {folder} after epoch {epoch}")
    flips = dataset.name != "svhn_cropped"
    train_step = make_train_step(graphdef, optimizer, flips, settings.compute_dtype)
    mask_key, step_key = jax.random.split(jax.random.key(settings.seed))
    batches = data.batches(
        len(dataset.images),
        batch_size,
        settings.seed,
        epoch * epoch_steps,
        num_steps=total_steps,
    )

    with (
        contextlib.closing(MetricWriter(folder, epoch * epoch_steps)) as writer,
        progress.stage(
            "training", total_steps, done=epoch * epoch_steps, lines=False
        ) as advance,
    ):
        start, first_epoch = time.monotonic(), epoch
        while epoch < settings.epochs:
            epoch += 1
            masks = _draw_masks(
                jax.random.fold_in(mask_key, epoch), (epoch_steps, batch_size), images
            )
            history = []
            # The masks end the epoch: zip then takes no batch of the next one.
            for mask, batch in zip(masks, batches, strict=False):
                state, metrics = train_step(
                    state, images[mask, batch], dataset.labels[batch], step_key
                )
                history.append(metrics)
                # Reading the metrics of the step before keeps the device one step
                # ahead of this loop, and no more.
                advance(1, f"loss {float(history[-2:][0].loss):.3f}")
            loss, accuracy = np.mean(jax.device_get(history), axis=0).tolist()
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} in epoch {epoch}; choose a smaller "
                    "--learning_rate and another --out"
                )
            variables = nnx.merge_state(state.parameters, state.statistics)
            test_accuracy = accuracy_of(
                graphdef, variables, test_images[0], test_dataset.labels
            )
            writer.write(
                step := epoch * epoch_steps,
                epoch=epoch,
                loss=loss,
                train_accuracy=accuracy,
                learning_rate=float(schedule(step - 1)),
                test_accuracy=test_accuracy,
            )
            if epoch % checkpoint_every == 0 or epoch == settings.epochs:
                _save(folder, epoch, state)
            seconds = (time.monotonic() - start) / (epoch - first_epoch)
            progress.line(
                f"epoch {epoch}/{settings.epochs}: loss {loss:.3f}, accuracy "
                f"{accuracy:.1%} (training), {test_accuracy:.1%} (test), "
                f"{seconds * (settings.epochs - epoch):.0f} s left"
            )
    return checkpoints.load_checkpoint(folder)


def _model_inputs(
    settings: TrainSettings,
    dataset: Dataset,
    cache_dir: str | os.PathLike[str],
    progress: Progress,
    *,
    test: bool = False,
) -> UInt8[np.ndarray, "masks n h w c"]:
    if settings.defense is None:
        return dataset.images[None]
    return purified_dataset(
        dataset,
        settings.defense,
        masks_per_image=1 if test else settings.masks_per_image,
        seed=settings.seed + test,  # image i of both sets would get one mask else
        cache_dir=cache_dir,
        progress=progress,
    )


def _draw_masks(
    key: Key[Array, ""], shape: tuple[int, int], images: UInt8[np.ndarray, "m n h w c"]
) -> Int[np.ndarray, "steps batch"]:
    """Returns which purified version of its image each place in an epoch gets."""
    return np.asarray(jax.random.randint(key, shape, 0, len(images)))


def _save(folder: pathlib.Path, epoch: int, state: TrainState) -> None:
    model = nnx.merge_state(state.parameters, state.statistics)
    rest = {"step": state.step, "state": state.optimizer}
    checkpoints.save(folder, epoch, model=model, optimizer=rest)


def _restore(folder: pathlib.Path, epoch: int, like: TrainState) -> TrainState:
    trees = checkpoints.restore(
        folder,
        epoch,
        model=nnx.merge_state(like.parameters, like.statistics),
        optimizer={"step": like.step, "state": like.optimizer},
    )
    parameters, statistics = nnx.split_state(trees["model"], nnx.Param, ...)
    rest = trees["optimizer"]
    return TrainState(rest["step"], parameters, statistics, rest["state"])


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    shared_flags.define_splic_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    default = TrainSettings()
    flags.DEFINE_enum("model", default.model, models.NAMES, "the network")
    flags.DEFINE_enum(
        "defense", "none", ["none", "splic"], "train on images as they are, or purified"
    )
    flags.DEFINE_integer(
        "masks_per_image",
        default.masks_per_image,
        "purified versions of each image; each epoch draws one of them",
        lower_bound=1,
    )
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
    flags.DEFINE_string("cache_dir", "out/purified", "folder of purified images")
    flags.DEFINE_integer(
        "checkpoint_every", 1, "epochs between checkpoints", lower_bound=1
    )
    compilation.define_flag("`compiled` in --out")
    flags.adopt_module_key_flags(compilation)


def settings_from_flags() -> TrainSettings:
    """Returns the settings that the flags ask for.

    Raises:
        UserError: for a value that makes no sense, naming the flag.
    """
    defense = None
    if FLAGS.defense == "splic":
        defense = shared_flags.splic_config_from_flags()
    else:
        for flag, _ in shared_flags.SPLIC_FLAGS.values():
            if FLAGS[flag].present:
                raise UserError(f"--{flag} needs --defense=splic")
    try:
        return TrainSettings(
            model=FLAGS.model,
            defense=defense,
            masks_per_image=FLAGS.masks_per_image,
            epochs=FLAGS.epochs,
            batch_size=FLAGS.batch_size,
            learning_rate=FLAGS.learning_rate,
            momentum=FLAGS.momentum,
            weight_decay=FLAGS.weight_decay,
            seed=FLAGS.seed,
            compute_dtype=FLAGS.compute_dtype,
            texture_bias=shared_flags.texture_bias_from_flags(),
        )
    except ValueError as error:
        raise UserError(f"--{error}") from None


def main(argv: Sequence[str]) -> None:
    del argv
    settings = settings_from_flags()
    compilation.keep(pathlib.Path(FLAGS.out) / "compiled")
    dataset = shared_flags.dataset_from_flags("train")
    test_dataset = shared_flags.dataset_from_flags("test")
    progress = Progress()
    progress.line(
        f"training {settings.model} on {len(dataset.images)} images of {dataset.name}, "
        f"defense {FLAGS.defense}, into {FLAGS.out}"
    )
    train(
        settings,
        dataset,
        test_dataset,
        FLAGS.out,
        cache_dir=FLAGS.cache_dir,
        checkpoint_every=FLAGS.checkpoint_every,
        progress=progress,
    )
    source = f" --data_dir={FLAGS.data_dir}" if FLAGS.data_dir else ""
    progress.line(
        f"done; next: ./launch.sh evaluate --dataset={FLAGS.dataset}{source} "
        f"--checkpoint={FLAGS.out}"
    )


if __name__ == "__main__":
    define_flags()
    errors.run(main)
