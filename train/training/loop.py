"""The loop that trains a classifier, and goes on with a run that was interrupted.

The run's folder gets `run.json`, `metrics.jsonl`, checkpoints, and TensorBoard events:
curves, test images as they are and transformed, training images attacked. Checkpoints
are written while the next epoch is trained.
"""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Int, Key, UInt8

from splic_jax import transform
from splic_jax.purification import COMPILER_OPTIONS
from splic_jax.transforms import TransformConfig, fitted, returns_images
from train import models
from train.data import loading
from train.data.loading import Dataset
from train.models import arrays
from train.recipes import Recipe
from train.recipes.ensemble import Ensemble
from train.training import checkpoints
from train.training.cache import purified_dataset
from train.training.checkpoints import LoadedModel
from train.training.metrics import MetricWriter
from train.training.settings import TrainSettings
from train.training.step import SHOWN, TrainState, make_train_step
from train.utils.errors import UserError
from train.utils.finite import is_finite, require_finite
from train.utils.progress import Progress

TEST_BATCH = 256


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


@jax.jit
def _correct(logits_function, images, labels):
    logits = logits_function(images.astype(jnp.float32) / 255)
    return logits.argmax(axis=-1) == labels


@functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
def _correct_behind(logits_function, images, labels, indices, config, key):
    images = images.astype(jnp.float32) / 255
    seen = transform(images, key, config, indices=indices)
    hits = logits_function(seen).argmax(axis=-1) == labels
    return hits, seen[:SHOWN], is_finite(seen)


def accuracy_of(
    graphdef: nnx.GraphDef,
    variables: nnx.State,
    images: np.ndarray,
    labels: np.ndarray,
    config: TransformConfig | None = None,
    key: Key[Array, ""] | None = None,
    show: Callable[[jax.Array], None] = lambda seen: None,
) -> float:
    """Returns the share of uint8 images ``[n, h, w, c]`` classified correctly.

    With the settings of a transform, and a key for it, the network sees the images
    through that; `show` is given the first of them as it sees them.
    """
    logits_function = models.logits_function(graphdef, variables)
    batch = min(TEST_BATCH, len(images))
    correct = 0
    for start in range(0, len(images), batch):
        # The last batch is filled up, because another size would compile again.
        chosen = np.arange(start, start + batch) % len(images)
        batch_of = (logits_function, images[chosen], labels[chosen])
        if config is None:
            hits = _correct(*batch_of)
        else:
            hits, seen, finite = _correct_behind(*batch_of, chosen, config, key)
            finite = np.asarray(finite)[: len(images) - start]
            require_finite(finite, start, "of the network")
            if not start:
                show(seen)
        correct += int(hits[: len(images) - start].sum())
    return correct / len(images)


def train(
    settings: TrainSettings,
    dataset: Dataset,
    test_dataset: Dataset,
    out_dir: str | os.PathLike[str],
    *,
    initial: nnx.State | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    progress: Progress | None = None,
) -> LoadedModel:
    """Trains a classifier, or goes on with the run in `out_dir`.

    Images come in the order of `train.data.loading.batches`, every batch full; an epoch
    is the number of steps nearest to one pass. Images of "svhn_cropped" are not
    mirrored: digits are not symmetric.

    Args:
        settings: how to train.
        dataset: the training images.
        test_dataset: the images of the test accuracy after each epoch. With a defense
            they are transformed as well, with the same draws each time.
        out_dir: folder of the run; made where it is missing.
        initial: variables of `settings.model` to start from, those whose checksum
            `settings.initial_weights` is; None draws them.
        cache_dir: where purified images are kept; by default in `out_dir`.
        checkpoint_every: epochs between checkpoints; there is one after the last.
        progress: shows the progress; None shows nothing.

    Returns:
        The classifier after the last epoch, as `load_checkpoint` would read it.

    Raises:
        UserError: if `out_dir` holds a run with other settings or a damaged
            checkpoint, a folder or a checkpoint cannot be written, the defense or the
            networks of the ensemble do not fit the images, or the loss is no longer
            finite.
    """
    progress = progress or Progress(quiet=True)
    folder = pathlib.Path(out_dir)
    if not len(dataset.images) or not len(test_dataset.images):
        raise UserError(f"{dataset.name}: no training images, or no test images")
    config = _fitted_defense(settings, dataset)
    static = _static_networks(settings.adversarial, dataset)
    checkpoints.start_run(
        folder, settings, dataset, [network.variables for network in static]
    )
    epoch = checkpoints.latest_epoch(folder) or 0
    if epoch == settings.epochs:
        progress.line(f"{folder} is trained already ({epoch} epochs)")
        return checkpoints.load_checkpoint(folder)

    cache_dir = cache_dir or folder / "purified"
    in_step = config if settings.defends_in_step else None
    cached = None if settings.defends_in_step else config
    prepare = functools.partial(_model_inputs, settings, cached, cache_dir, progress)
    images = prepare(dataset)
    test_images = prepare(test_dataset, test=True)

    batch_size = min(settings.batch_size, len(dataset.images))
    epoch_steps = round(len(dataset.images) / batch_size)
    total_steps = epoch_steps * settings.epochs
    model = models.create(
        settings.model,
        len(dataset.class_names),
        settings.seed,
        channels=settings.input_channels(dataset.images.shape[-1]),
    )
    graphdef, variables = models.split(model)
    if initial is not None:
        variables = _initial(settings, variables, initial)
    parameters, statistics = nnx.split_state(variables, nnx.Param, ...)
    optimizer, schedule = make_optimizer(settings, total_steps)
    state = TrainState(jnp.int32(0), parameters, statistics, optimizer.init(parameters))
    if epoch:
        state = _restore(folder, epoch, state)
        progress.line(f"resuming {folder} after epoch {epoch}")
    flips = dataset.name != "svhn_cropped"
    train_step = make_train_step(
        graphdef,
        optimizer,
        flips,
        settings.compute_dtype,
        recipe=settings.adversarial,
        config=in_step,
        static=[models.logits_function(*network[:2]) for network in static],
    )
    mask_key, step_key = jax.random.split(jax.random.key(settings.seed))
    batches = loading.batches(
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
        checkpoints.Saver(_save) as saver,
    ):
        if not epoch:
            writer.show(0, "test/clean", test_dataset.images[:SHOWN])
            if cached is not None:
                writer.show(0, "test/transformed", test_images[0, :SHOWN])
        start, first_epoch = time.monotonic(), epoch
        while epoch < settings.epochs:
            epoch += 1
            step = epoch * epoch_steps
            masks = _draw_masks(
                jax.random.fold_in(mask_key, epoch), (epoch_steps, batch_size), images
            )
            history = []
            # The masks end the epoch: zip then takes no batch of the next one.
            for mask, batch in zip(masks, batches, strict=False):
                state, metrics = train_step(
                    state, images[mask, batch], dataset.labels[batch], step_key
                )
                history.append((metrics.loss, metrics.accuracy))
                # Reading the metrics of the step before keeps the device one step
                # ahead of this loop, and no more.
                advance(1, f"loss {float(history[-2:][0][0]):.3f}")
            loss, accuracy = np.mean(jax.device_get(history), axis=0).tolist()
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} in epoch {epoch}; choose a smaller "
                    "--learning_rate, or milder settings of --defense, and another "
                    "--out"
                )
            variables = nnx.merge_state(state.parameters, state.statistics)
            test_accuracy = accuracy_of(
                graphdef,
                variables,
                test_images[0],
                test_dataset.labels,
                in_step,
                jax.random.key(settings.seed + 1),
                show=functools.partial(_show_seen, writer, step, in_step),
            )
            for name, row in metrics.shown.items():
                writer.show(step, f"training/{name}", row)
            writer.write(
                step,
                epoch=epoch,
                loss=loss,
                train_accuracy=accuracy,
                learning_rate=float(schedule(step - 1)),
                test_accuracy=test_accuracy,
            )
            saver.check()
            if epoch % checkpoint_every == 0 or epoch == settings.epochs:
                saver.start(folder, epoch, state)
            seconds = (time.monotonic() - start) / (epoch - first_epoch)
            progress.line(
                f"epoch {epoch}/{settings.epochs}: loss {loss:.3f}, accuracy "
                f"{accuracy:.1%} (training), {test_accuracy:.1%} (test), "
                f"{seconds * (settings.epochs - epoch):.0f} s left"
            )
    return checkpoints.load_checkpoint(folder)


def _initial(settings: TrainSettings, like: nnx.State, initial: nnx.State) -> nnx.State:
    """A copy of the weights to start from, which the first step may overwrite."""
    if checkpoints.weights_checksum(initial) != settings.initial_weights:
        raise ValueError("initial must be the weights that initial_weights is of")
    try:
        copied = jax.tree.map(np.array, arrays.to_arrays(initial))
        return arrays.from_arrays(like, copied)
    except ValueError as error:
        raise UserError(
            f"the weights to start from are not of {settings.model} for these images "
            f"and classes: {error}"
        ) from error


def _show_seen(
    writer: MetricWriter, step: int, config: TransformConfig, seen: jax.Array
) -> None:
    if returns_images(config):
        writer.show(step, "test/transformed", seen)


def _fitted_defense(
    settings: TrainSettings, dataset: Dataset
) -> TransformConfig | None:
    """The settings of the transform, with what it needs of the training images."""
    if settings.defense is None:
        return None
    try:
        key = jax.random.key(settings.seed)
        config = fitted(settings.defense, dataset.images, key)
        image = jax.ShapeDtypeStruct((1, *dataset.images.shape[1:]), jnp.float32)
        jax.eval_shape(functools.partial(transform, config=config), image, key)
    except ValueError as error:
        raise UserError(f"cannot purify the images: {error}") from error
    return config


def _static_networks(recipe: Recipe, dataset: Dataset) -> list[LoadedModel]:
    """The networks that ensemble training takes its attacks from."""
    networks = []
    for path in recipe.networks if isinstance(recipe, Ensemble) else ():
        network = checkpoints.load_checkpoint(path)
        shape = dataset.images.shape[1:]
        takes = (*shape[:2], network.settings.input_channels(shape[2]))
        found = tuple(network.dataset["image_shape"])
        if (network.class_names, found, takes) != (dataset.class_names, shape, shape):
            raise UserError(
                f"--ensemble={path} is a network for other images or classes than "
                f"those of {dataset.name}; leave it out"
            )
        networks.append(network)
    return networks


def _model_inputs(
    settings: TrainSettings,
    config: TransformConfig | None,
    cache_dir: str | os.PathLike[str],
    progress: Progress,
    dataset: Dataset,
    *,
    test: bool = False,
) -> UInt8[np.ndarray, "masks n h w c"]:
    """The images that epochs draw from; `config` transforms them, or is None."""
    if config is None:
        return dataset.images[None]
    seed = settings.seed + test  # or image i of both sets would get the same mask
    purified = functools.partial(
        purified_dataset, dataset, cache_dir=cache_dir, progress=progress
    )
    if test or settings.keep_range is None:
        count = 1 if test else settings.masks_per_image
        return purified(config, masks_per_image=count, seed=seed)
    # A seed for each: with one seed, each mask would contain the next smaller one.
    versions = [
        purified(
            dataclasses.replace(config, keep_probability=kept),
            masks_per_image=1,
            seed=seed + 2 * version,
        )
        for version, kept in enumerate(settings.keep_probabilities())
    ]
    return np.concatenate(versions)


def _draw_masks(
    key: Key[Array, ""], shape: tuple[int, int], images: UInt8[np.ndarray, "m n h w c"]
) -> Int[np.ndarray, "steps batch"]:
    """Returns which purified version each image of an epoch's batches has."""
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
