"""One training step: augment, attack, transform, differentiate, update."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Int32, Key, UInt8

from splic_jax import transform
from splic_jax.purification import COMPILER_OPTIONS
from splic_jax.transforms import TransformConfig
from train import models
from train.recipes import RECIPES, Batch, Frozen, Outputs, Recipe
from train.threats.defended import defended

CROP_PADDING = 4
SHOWN = 8  # images in a row of TensorBoard

# images -> logits of a network trained before, as `train.models.logits_function` is.
LogitsOfImages = Callable[[Float[Array, "n h w c"]], Float[Array, "n classes"]]


class TrainState(NamedTuple):
    """Everything that changes from step to step."""

    step: Int32[Array, ""]
    parameters: nnx.State
    statistics: nnx.State
    optimizer: optax.OptState


class StepMetrics(NamedTuple):
    """What a step measures on its batch.

    Attributes:
        loss: of the batch.
        accuracy: the share of correct predictions.
        shown: the first images, augmented, and the same attacked, by these names; {}
            where nobody attacks.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    shown: Mapping[str, Float[Array, "n h w c"]]


def augment(
    images: UInt8[Array, "n h w c"], key: Key[Array, ""], flips: bool
) -> Float[Array, "n h w c"]:
    """Returns floats in [0, 1]: shifted by up to 4 pixels, and half of them mirrored.

    Pixels shifted in at the border are black.
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


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    flips: bool,
    compute_dtype: str = "float32",
    *,
    recipe: Recipe = RECIPES["none"],
    config: TransformConfig | None = None,
    static: Sequence[LogitsOfImages] = (),
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Returns the compiled ``(state, images, labels, key) -> (state, metrics)``.

    `key` is the run's: each step folds its number into it. The state is donated.

    Args:
        graphdef: of the model.
        optimizer: of its parameters.
        flips: whether to mirror half of the images.
        compute_dtype: as in `TrainSettings`.
        recipe: how the batch is attacked, and the loss.
        config: settings of the input transform that the images go through in the step,
            fitted where it needs that, with another key each time; None for none. An
            attack goes through it by BPDA.
        static: networks trained before, which a recipe may attack.
    """

    def train_step(state, images, labels, key, config, static):
        step_key = jax.random.fold_in(key, state.step)
        inputs = augment(images, step_key, flips)
        # Splitting a key is folding 0 and 1 into it, which `augment` does.
        craft_key, loss_key = jax.random.split(jax.random.fold_in(step_key, 2))
        frozen = Frozen(
            _frozen_network(graphdef, state, compute_dtype, config),
            tuple(partial(_without_key, network) for network in static),
        )
        attacked = recipe.craft(frozen, inputs, labels, craft_key)
        batch = Batch(inputs, attacked, labels)

        def loss_function(parameters):
            model = nnx.merge(graphdef, parameters, state.statistics, copy=True)
            models.prepare_training(model, compute_dtype)

            def forward(images, key):
                if config is not None:
                    images = transform(images, key, config)
                features = model.features(images, train=True)
                return Outputs(model.head(features), features)

            loss, logits = recipe.loss(forward, batch, loss_key)
            accuracy = jnp.mean(logits.argmax(axis=-1) == labels)
            return loss, (accuracy, nnx.state(model, nnx.BatchStat))

        gradient_function = jax.value_and_grad(loss_function, has_aux=True)
        (loss, (accuracy, statistics)), gradient = gradient_function(state.parameters)
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer, state.parameters
        )
        parameters = optax.apply_updates(state.parameters, updates)
        state = TrainState(state.step + 1, parameters, statistics, optimizer_state)
        shown = {}
        if attacked is not inputs:
            shown = {"augmented": inputs[:SHOWN], "attacked": attacked[:SHOWN]}
        return state, StepMetrics(loss, accuracy, shown)

    compiled = jax.jit(
        train_step,
        donate_argnames="state",
        compiler_options=None if config is None else COMPILER_OPTIONS,
    )

    def step(
        state: TrainState,
        images: UInt8[Array, "n h w c"],
        labels: Int[Array, " n"],
        key: Key[Array, ""],
    ) -> tuple[TrainState, StepMetrics]:
        return compiled(state, images, labels, key, config, tuple(static))

    return step


def _frozen_network(
    graphdef: nnx.GraphDef,
    state: TrainState,
    compute_dtype: str,
    config: TransformConfig | None,
) -> Callable[..., Array]:
    """``(images, key) -> logits`` of the network before the step."""
    model = nnx.merge(graphdef, state.parameters, state.statistics, copy=True)
    models.set_compute_dtype(model, compute_dtype)
    logits = models.logits_function(*nnx.split(model))
    return defended(logits, config, 0, "bpda")


def _without_key(logits_function: LogitsOfImages, images: Array, key: Array) -> Array:
    del key
    return logits_function(images)
