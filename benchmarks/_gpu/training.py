"""Items D, E, I, J and L: training, with one program per epoch.

    record = training.run_vanilla(context)              # D
    record = training.run_splic(context)                # E: on purified images
    record = training.run_me_net(context)               # I: on USVT's estimates
    record = training.run_fast_at(context)              # J: on attacked images
    record = training.run_splic_fast_at(context)        # L: on both

Each trains a network, saves it by `networks.save` under its name ("vanilla", "splic",
"me_net", "fast_at", "splic_fast_at") and returns its measurements; a saved network is
not trained again. For each there is a function that lists the programs it runs.

The images stay on the device as uint8, where all random draws and attacks are made;
nothing is copied back before the end of an epoch. Convolutions are in bfloat16;
parameters, statistics and losses in float32.
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attacks import bpda
from benchmarks._gpu import networks, settings
from benchmarks._gpu.context import Context, Images, Program, interval
from splic_jax import SPLICConfig, purify
from splic_jax.solvers.kernel import is_wanted
from splic_jax.transforms.completion.matrices import of_matrices
from train import models
from train.utils import files

MOST_EPOCHS = 15
SMOOTHING = 0.1  # of labels, without adversarial training
CROP_PADDING = 4
EPSILON, FAST_STEP = 8 / 255, 10 / 255
KEPT_SHARE, KEEP_RANGE, VERSIONS = 0.8, (0.4, 0.6), 10  # ME-Net's

_SIDE, _CHANNELS = 32, 3
_PEAK, _PEAK_AT = 0.4, 0.25  # learning rate, and its place in the schedule
_SECONDS_AFTER = 15.0  # to evaluate and save a network
_WEIGHTS = optax.chain(optax.add_decayed_weights(5e-4), optax.trace(0.9, nesterov=True))


class Recipe(NamedTuple):
    """The static settings of an epoch's program.

    Attributes:
        model: of `train.models.NAMES`.
        batch: images in a step.
        smoothing: of labels.
        attacked: whether a step attacks its images by FGSM from a random start.
        config: of the purification of the attacked images in a step.
    """

    model: str
    batch: int
    smoothing: float = 0.0
    attacked: bool = False
    config: SPLICConfig | None = None


class State(NamedTuple):
    """Everything that changes from step to step."""

    step: Any
    parameters: Any
    statistics: Any
    momentum: Any


class Schedule(NamedTuple):
    """Learning rate: linear up to `peak`, then linear down to 0 at `steps`."""

    steps: Any
    peak: Any


def learning_rate(step: jax.Array, schedule: Schedule) -> jax.Array:
    """The learning rate of a step, counted from 0."""
    place = (step + 0.5) / schedule.steps
    corners = jnp.array([0.0, _PEAK_AT, 1.0])
    return jnp.interp(place, corners, schedule.peak * jnp.array([0.0, 1.0, 0.0]))


def crop_and_flip(
    images: jax.Array, chosen: jax.Array, corners: jax.Array, mirrored: jax.Array
) -> jax.Array:
    """A batch of images as floats in [0, 1], cropped, and some mirrored after that.

    Read in one gather. The border is black.

    Args:
        images: uint8 ``[n, h, w, c]``.
        chosen: int32 ``[b]``, indices of the batch.
        corners: int32 ``[b, 2]``, of the crop in the image with a border of
            `CROP_PADDING`: row and column, both in [0, 2 CROP_PADDING].
        mirrored: bool ``[b]``.
    """
    count, height, width, channels = images.shape
    rows = jnp.arange(height) + corners[:, :1] - CROP_PADDING
    places = jnp.arange(width)
    places = jnp.where(mirrored[:, None], width - 1 - places, places)
    columns = places + corners[:, 1:] - CROP_PADDING
    inside = ((rows >= 0) & (rows < height))[:, :, None]
    inside &= ((columns >= 0) & (columns < width))[:, None]
    rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    pixels = (chosen[:, None] * height + rows)[:, :, None] * width + columns[:, None]
    flat = images.reshape(count * height * width, channels)
    read = flat.at[pixels].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], read, 0).astype(jnp.float32) / 255


def augmented(images: jax.Array, chosen: jax.Array, key: jax.Array) -> jax.Array:
    """`crop_and_flip` of a batch with corners and flips drawn from a key."""
    crop_key, flip_key = jax.random.split(key)
    shape = (len(chosen), 2)
    corners = jax.random.randint(crop_key, shape, 0, 2 * CROP_PADDING + 1)
    mirrored = jax.random.bernoulli(flip_key, shape=(len(chosen),))
    return crop_and_flip(images, chosen, corners, mirrored)


def batch_loss(
    parameters: Any, averages: Any, images: jax.Array, labels: jax.Array, recipe: Recipe
) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    """Loss, accuracy and the new running averages of a batch, in training mode."""
    graphdef, _ = networks.outline(recipe.model, training=True)
    model = nnx.merge(graphdef, parameters, averages, copy=True)
    logits = model(images, train=True)
    wanted = jax.nn.one_hot(labels, networks.CLASSES)
    wanted = optax.smooth_labels(wanted, recipe.smoothing)
    loss = optax.softmax_cross_entropy(logits, wanted).mean()
    accuracy = jnp.mean(logits.argmax(axis=-1) == labels)
    return loss, (accuracy, nnx.state(model, nnx.BatchStat))


def _fast_attack(
    state: State,
    images: jax.Array,
    labels: jax.Array,
    keys: jax.Array,
    recipe: Recipe,
    defense: Callable[[jax.Array, jax.Array], jax.Array] | None,
) -> jax.Array:
    """FGSM from a random start (Wong, Rice and Kolter 2020, algorithm 3).

    Through the defense with the identity for its derivative. As in their code the
    network is in training mode, but its running averages are not updated.
    """
    start = jax.random.uniform(keys[0], images.shape, minval=-EPSILON, maxval=EPSILON)
    start = jnp.clip(images + start, 0, 1)

    def loss(images: jax.Array) -> jax.Array:
        if defense is not None:
            images = bpda(defense)(images, keys[1])
        return batch_loss(state.parameters, state.statistics, images, labels, recipe)[0]

    moved = start + FAST_STEP * jnp.sign(jax.grad(loss)(start))
    return jnp.clip(jnp.clip(moved, images - EPSILON, images + EPSILON), 0, 1)


@partial(jax.jit, static_argnames="recipe", donate_argnames="state")
def run_epoch(
    state: State,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    schedule: Schedule,
    *,
    recipe: Recipe,
) -> tuple[State, tuple[jax.Array, jax.Array]]:
    """Trains on all images once, in random order, without an incomplete last batch.

    Args:
        state: donated.
        images: uint8 ``[n, h, w, c]``.
        labels: int32 ``[n]``.
        key: of all random draws.
        schedule: of the learning rate.
        recipe: the settings of a step.

    Returns:
        The new state; loss and accuracy of each step on its own batch.
    """
    order_key, steps_key = jax.random.split(key)
    steps = len(images) // recipe.batch
    order = jax.random.permutation(order_key, len(images)).astype(jnp.int32)
    order = order[: steps * recipe.batch].reshape(steps, recipe.batch)
    defense = None
    if recipe.config is not None:
        defense = partial(purify, config=recipe.config)

    def step(state: State, drawn: Any) -> tuple[State, tuple[jax.Array, jax.Array]]:
        chosen, key = drawn
        augment_key, start_key, attack_key, purify_key = jax.random.split(key, 4)
        inputs, wanted = augmented(images, chosen, augment_key), labels[chosen]
        if recipe.attacked:
            keys = jnp.stack([start_key, attack_key])
            inputs = _fast_attack(state, inputs, wanted, keys, recipe, defense)
        if defense is not None:
            inputs = defense(inputs, purify_key)
        (loss, (accuracy, averages)), gradient = jax.value_and_grad(
            batch_loss, has_aux=True
        )(state.parameters, state.statistics, inputs, wanted, recipe)
        updates, momentum = _WEIGHTS.update(gradient, state.momentum, state.parameters)
        rate = learning_rate(state.step, schedule)
        updates = jax.tree.map(lambda update: -rate * update, updates)
        parameters = optax.apply_updates(state.parameters, updates)
        state = State(state.step + 1, parameters, averages, momentum)
        return state, (loss, accuracy)

    return jax.lax.scan(step, state, (order, jax.random.split(steps_key, steps)))


@partial(jax.jit, static_argnames="model")
def logits_of(variables: Any, images: jax.Array, *, model: str) -> jax.Array:
    """Logits of uint8 images by a network in evaluation mode."""
    graphdef, _ = networks.outline(model)
    return networks.logits(graphdef, variables)(images.astype(jnp.float32) / 255)


@partial(jax.jit, static_argnames="config")
def purify_piece(
    images: jax.Array, indices: jax.Array, key: jax.Array, *, config: SPLICConfig
) -> jax.Array:
    """`splic_jax.purify`, compiled as a whole."""
    return purify(images, key, config, indices=indices)


@jax.jit
def usvt_piece(
    images: jax.Array, indices: jax.Array, key: jax.Array, kept: jax.Array
) -> jax.Array:
    """`transforms.completion.usvt`, with a keep probability for each image.

    Singular vectors are found from ``X X^T``, as a GPU decomposes 32 x 32 matrices in
    batches, but 32 x 96 ones one after another.

    Args:
        images: uint8 ``[n, h, w, c]``.
        indices: int32 ``[n]``, of the images.
        key: of the masks.
        kept: float32 ``[n]``, the keep probabilities.
    """

    def estimate(matrix: jax.Array, mask: jax.Array) -> jax.Array:
        dropped = matrix.shape[0] - int(KEPT_SHARE * matrix.shape[0])
        product = partial(jnp.matmul, precision="highest")
        _, vectors = jnp.linalg.eigh(product(matrix, matrix.T))
        largest = vectors[:, dropped:]
        return product(largest, product(largest.T, matrix)) / mask.mean()

    def one(image: jax.Array, index: jax.Array, kept: jax.Array) -> jax.Array:
        drawn = jax.random.uniform(jax.random.fold_in(key, index), image.shape)
        mask = drawn < kept
        values = jnp.where(mask, 2 * image.astype(jnp.float32) / 255 - 1, 0)
        values = of_matrices(estimate, values, mask, "concatenated")
        values = jnp.clip((values + 1) / 2, 0, 1)
        return jnp.round(values * 255).astype(jnp.uint8)

    return jax.vmap(one)(images, indices, kept)


# ``(images, key, testing) -> images``, uint8.
Preparation = Callable[[np.ndarray, jax.Array, bool], jax.Array]


def _pieces(
    images: np.ndarray, size: int, run: Callable[[np.ndarray, np.ndarray], jax.Array]
) -> list[jax.Array]:
    """``(images, indices) -> array`` on pieces of one size, the last one padded."""
    rows = np.arange(-(-len(images) // size) * size, dtype=np.int32)
    padded = images[np.minimum(rows[len(images) :], len(images) - 1)]
    done = []
    for start in range(0, len(rows), size):
        piece = images[start : start + size]
        if len(piece) < size:
            piece = np.concatenate([piece, padded])
        done.append(run(piece, rows[start : start + size]))
    return done


def _whole(pieces: Sequence[jax.Array], count: int) -> jax.Array:
    whole = jnp.concatenate(pieces)
    return whole if len(whole) == count else whole[:count]


def _purified(context: Context, config: SPLICConfig) -> Preparation:
    def prepare(images: np.ndarray, key: jax.Array, testing: bool) -> jax.Array:
        del testing
        run = partial(purify_piece, key=key, config=config)
        return _whole(_pieces(images, _piece(context), run), len(images))

    return prepare


def _estimated(context: Context) -> Preparation:
    def prepare(images: np.ndarray, key: jax.Array, testing: bool) -> jax.Array:
        levels = np.linspace(*KEEP_RANGE, VERSIONS).astype(np.float32)
        if testing:
            levels = levels.mean(keepdims=True)
        draw_key, mask_key = jax.random.split(key)
        seed = int(jax.random.bits(draw_key))

        def run(images: np.ndarray, indices: np.ndarray) -> jax.Array:
            rng = np.random.default_rng((seed, indices[0]))
            kept = rng.choice(levels, len(images))
            return usvt_piece(images, indices, mask_key, kept)

        return _whole(_pieces(images, _piece(context), run), len(images))

    return prepare


def _trained_on(context: Context) -> int:
    return context.size(50_000, 64)  # convolutions in a loop are slow on a CPU


def _piece(context: Context) -> int:
    return context.size(5000, 64)


def _evaluated(context: Context) -> int:
    return context.size(networks.BATCH, 64)


def correct_of(
    context: Context, variables: Any, images: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """The accuracy of a network on uint8 images, with its interval."""
    model = networks.model_of(context)

    def run(images: np.ndarray, indices: np.ndarray) -> jax.Array:
        del indices
        return logits_of(variables, images, model=model)

    logits = np.concatenate(
        [np.asarray(piece) for piece in _pieces(images, _evaluated(context), run)]
    )
    logits = logits[: len(images)]
    broken = int((~np.isfinite(logits).all(axis=-1)).sum())
    if broken:
        context.line(f"logits of {broken} of {len(images)} images are not finite")
    predicted = logits.argmax(axis=-1)
    right = interval(int((predicted == labels).sum()), len(labels))
    return {**right, "not_finite": broken}


def initial_state(model: str, seed: int) -> State:
    """A network with weights drawn from a seed, and no momentum."""
    _, variables = models.split(models.create(model, networks.CLASSES, seed))
    parameters, averages = nnx.split_state(variables, nnx.Param, ...)
    shapes = jax.eval_shape(_WEIGHTS.init, parameters)
    momentum = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return jax.device_put(State(np.int32(0), parameters, averages, momentum))


def state_shapes(model: str) -> State:
    """The shapes of `initial_state`."""
    _, variables = networks.outline(model, training=True)
    parameters, averages = nnx.split_state(variables, nnx.Param, ...)
    momentum = jax.eval_shape(_WEIGHTS.init, parameters)
    return State(jax.ShapeDtypeStruct((), jnp.int32), parameters, averages, momentum)


def planned(
    done: int, before: int, most: int, taken: Sequence[float], left: float
) -> int:
    """The number of epochs planned, including those done.

    Args:
        done: epochs done.
        before: the previous plan; after three epochs the plan only shrinks, so that the
            learning rate does not rise again.
        most: maximum number.
        taken: seconds of each epoch; the first counts only if there are no others.
        left: seconds left.
    """
    if not taken:
        return most if left > 0 else 0
    fitting = done + max(0, int(left / statistics.median(taken[1:] or taken)))
    return max(done, min(fitting, most if done < 3 else before))


def _train(
    context: Context,
    name: str,
    recipe: Recipe,
    *,
    seconds: float,
    peak: float = _PEAK,
    prepare: Preparation | None = None,
) -> tuple[dict[str, Any], State]:
    """Trains as many epochs as fit; returns the record and the last state."""
    start = time.perf_counter()
    most = context.size(MOST_EPOCHS, 2)

    def left() -> float:
        # A rehearsal trains even on a busy machine.
        within = context.size(seconds, 3600.0) - (time.perf_counter() - start)
        return min(within, context.left() - _SECONDS_AFTER)

    train_set = context.train_set()
    originals = train_set.images[: _trained_on(context)]
    labels = jnp.asarray(train_set.labels[: len(originals)])
    resident = jnp.asarray(originals)
    run_key = jax.random.key(0)
    steps = len(originals) // recipe.batch
    state = initial_state(recipe.model, seed=0)

    def schedule_of(epochs: int) -> Schedule:
        return Schedule(jnp.float32(epochs * steps), jnp.float32(peak))

    compiled = run_epoch.lower(
        state, resident, labels, run_key, schedule_of(most), recipe=recipe
    ).compile()
    record: dict[str, Any] = {
        "train_images": train_set.name,
        "recipe": _words(recipe),
        "peak_learning_rate": peak,
        "seconds_until_ready": time.perf_counter() - start,
        "plans": [],
        "epoch_seconds": [],
        "preparation_seconds": [],
        "loss": [],
        "accuracy": [],
    }
    epochs, taken = most, list[float]()
    while True:
        epochs = planned(len(taken), epochs, most, taken, left())
        if len(taken) >= epochs:
            break
        record["plans"].append(epochs)
        key = jax.random.fold_in(run_key, len(taken))
        begin = time.perf_counter()
        images = resident
        if prepare is not None:
            prepare_key = jax.random.fold_in(jax.random.key(1), len(taken))
            images = prepare(originals, prepare_key, False)
            jax.block_until_ready(images)
        middle = time.perf_counter()
        state, metrics = compiled(state, images, labels, key, schedule_of(epochs))
        loss, accuracy = (float(np.mean(values)) for values in jax.device_get(metrics))
        end = time.perf_counter()
        taken.append(end - begin)
        record["preparation_seconds"].append(middle - begin)
        record["epoch_seconds"].append(end - middle)
        record["loss"].append(loss)
        record["accuracy"].append(accuracy)
        context.line(
            f"{name}: epoch {len(taken)} of {epochs}, loss {loss:.3f}, accuracy "
            f"{accuracy:.3f}, {end - middle:.2f} s after {middle - begin:.2f} s"
        )
        if not np.isfinite(loss):
            break
    record["epochs"] = len(taken)
    record["finished"] = bool(taken) and record["plans"][-1] == len(taken)
    if taken:
        usual = statistics.median(
            record["epoch_seconds"][1:] or record["epoch_seconds"]
        )
        record["images_per_second"] = steps * recipe.batch / usual
        record["diverged"] = not np.isfinite(record["loss"][-1])
    return record, state


def _words(recipe: Recipe) -> dict[str, Any]:
    words = recipe._asdict()
    if recipe.config is not None:
        words["config"] = dataclasses.asdict(recipe.config)
    if recipe.attacked:
        words["attack"] = (
            f"FGSM {FAST_STEP * 255:g}/255 from a uniform start within "
            f"{EPSILON * 255:g}/255; BatchNorm in training mode, as in the reference; "
            "running averages of the training pass alone"
        )
    return words


def _run(
    context: Context,
    name: str,
    recipe: Recipe,
    *,
    seconds: float,
    prepare: Preparation | None = None,
    **more: Any,
) -> Mapping[str, Any]:
    """Trains and saves a network, and measures its accuracy."""
    past = context.state / f"{name}.json"
    if found := networks.exists(context, name):
        context.line(f"{name}: found")
        record = json.loads(past.read_text())
        _, variables = networks.load(context, name)
    else:
        trained, state = _train(context, name, recipe, seconds=seconds, prepare=prepare)
        record = {**trained, **more}
        if not record["epochs"] or record["diverged"]:
            return record  # there is no usable network
        variables = nnx.merge_state(state.parameters, state.statistics)
        files.write_whole(past, json.dumps(record).encode())
        networks.save(context, name, variables)
    if "test" not in record:
        if recipe.config is not None:
            prepare = _purified(context, recipe.config)
        record |= _tested(context, name, variables, prepare)
        files.write_whole(past, json.dumps(record).encode())
    return {**record, "found": found}


def _tested(
    context: Context, name: str, variables: Any, prepare: Preparation | None
) -> dict[str, Any]:
    start = time.perf_counter()
    test = {}
    for images in (context.test_set(), context.originals()):
        row = {"bare": _accuracy(context, variables, images, None)}
        if prepare is not None:
            row["prepared"] = _accuracy(context, variables, images, prepare)
        test[images.name] = row
        words = ", ".join(
            f"{key} {100 * x['accuracy']:.1f} %" for key, x in row.items()
        )
        context.line(f"{name}: {images.name}: {words}")
    return {"test": test, "test_seconds": time.perf_counter() - start}


def _accuracy(
    context: Context, variables: Any, images: Images, prepare: Preparation | None
) -> dict[str, float]:
    shown = images.images
    if prepare is not None:
        shown = np.asarray(prepare(shown, jax.random.key(2), True))
    return correct_of(context, variables, shown, images.labels)


def _recipe(context: Context, **options: Any) -> Recipe:
    return Recipe(
        networks.model_of(context), context.size(networks.BATCH, 16), **options
    )


_PLAIN: Mapping[str, Any] = {"smoothing": SMOOTHING}


@functools.cache
def _with_working_kernel(
    size: int, config: SPLICConfig
) -> tuple[SPLICConfig, str | None]:
    """The settings, without the kernel if it fails here, and the failure."""
    images = np.full((size, _SIDE, _SIDE, _CHANNELS), 128, np.uint8)
    images[:, ::3, ::2] = 40
    indices = np.arange(size, dtype=np.int32)
    try:
        done = purify_piece(images, indices, jax.random.key(0), config=config)
        jax.block_until_ready(done)
    except Exception as error:  # whatever the compiler of a kernel raises
        return dataclasses.replace(config, solver="tracked"), f"{error!r:.500}"
    return config, None


def _sized(context: Context, config: SPLICConfig) -> SPLICConfig:
    # Compiled like this, the fast solver is much slower on a CPU for few steps.
    few = dataclasses.replace(config, max_steps=7, solver="exact")
    return context.size(config, few)


def _working(
    context: Context, name: str, config: SPLICConfig
) -> tuple[SPLICConfig, str | None]:
    config = _sized(context, config)
    if networks.exists(context, name) or not is_wanted(config):
        return config, None
    config, failure = _with_working_kernel(_piece(context), config)
    if failure:
        context.line(f"{name}: the kernel fails and is left out: {failure}")
    return config, failure


def run_vanilla(context: Context, *, seconds: float = 60.0) -> Mapping[str, Any]:
    """Item D: on unmodified images."""
    return _run(context, "vanilla", _recipe(context, **_PLAIN), seconds=seconds)


def run_splic(
    context: Context,
    *,
    seconds: float = 90.0,
    config: SPLICConfig = settings.CHOSEN,
) -> Mapping[str, Any]:
    """Item E: on images purified with new masks in every epoch."""
    config, failure = _working(context, "splic", config)
    return _run(
        context,
        "splic",
        _recipe(context, **_PLAIN),
        seconds=seconds,
        prepare=_purified(context, config),
        config=dataclasses.asdict(config),
        kernel_failure=failure,
    )


def run_me_net(context: Context, *, seconds: float = 75.0) -> Mapping[str, Any]:
    """Item I: on ME-Net's estimates by USVT, each with one of ten keep probabilities.

    Tested with the mean of these.
    """
    return _run(
        context,
        "me_net",
        _recipe(context, **_PLAIN),
        seconds=seconds,
        prepare=_estimated(context),
        keep_range=KEEP_RANGE,
        versions=VERSIONS,
        kept_share=KEPT_SHARE,
    )


def run_fast_at(context: Context, *, seconds: float = 75.0) -> Mapping[str, Any]:
    """Item J: on images attacked by FGSM from a random start."""
    recipe = _recipe(context, attacked=True)
    return _run(context, "fast_at", recipe, seconds=seconds)


def run_splic_fast_at(
    context: Context,
    *,
    seconds: float = 110.0,
    config: SPLICConfig = settings.CHOSEN,
) -> Mapping[str, Any]:
    """Item L: on images attacked through the purification, and purified again."""
    config, failure = _working(context, "splic_fast_at", config)
    recipe = _recipe(context, attacked=True, config=config)
    return _run(
        context, "splic_fast_at", recipe, seconds=seconds, kernel_failure=failure
    )


def _key_shape() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _images_shape(count: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, _SIDE, _SIDE, _CHANNELS), jnp.uint8)


def _shape(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _programs(context: Context, recipe: Recipe) -> list[Program]:
    count = _trained_on(context)
    _, variables = networks.outline(recipe.model)
    rate = Schedule(_shape(dtype=jnp.float32), _shape(dtype=jnp.float32))
    state = state_shapes(recipe.model)
    epoch = (state, _images_shape(count), _shape(count), _key_shape(), rate)
    tested = (variables, _images_shape(_evaluated(context)))
    kind = "on attacked images" if recipe.attacked else "of training"
    return [
        Program(
            f"an epoch {kind}",
            run_epoch,
            epoch,
            {"recipe": recipe},
            networks.FAMILY,
        ),
        Program("logits", logits_of, tested, {"model": recipe.model}, networks.FAMILY),
    ]


def _purification(context: Context, config: SPLICConfig) -> Program:
    config = _sized(context, config)
    size = _piece(context)
    arguments = (_images_shape(size), _shape(size), _key_shape())
    return Program("purification", purify_piece, arguments, {"config": config})


def programs_vanilla(context: Context) -> list[Program]:
    """The programs of `run_vanilla`."""
    return _programs(context, _recipe(context, **_PLAIN))


def programs_splic(
    context: Context, *, config: SPLICConfig = settings.CHOSEN
) -> list[Program]:
    """The programs of `run_splic`; its epoch is that of `run_vanilla`."""
    return [_purification(context, config), *programs_vanilla(context)]


def programs_me_net(context: Context) -> list[Program]:
    """The programs of `run_me_net`; its epoch is that of `run_vanilla`."""
    size = _piece(context)
    kept = _shape(size, dtype=jnp.float32)
    arguments = (_images_shape(size), _shape(size), _key_shape(), kept)
    return [Program("USVT", usvt_piece, arguments), *programs_vanilla(context)]


def programs_fast_at(context: Context) -> list[Program]:
    """The programs of `run_fast_at`."""
    return _programs(context, _recipe(context, attacked=True))


def programs_splic_fast_at(
    context: Context, *, config: SPLICConfig = settings.CHOSEN
) -> list[Program]:
    """The programs of `run_splic_fast_at`."""
    recipe = _recipe(context, attacked=True, config=_sized(context, config))
    return [*_programs(context, recipe), _purification(context, config)]
