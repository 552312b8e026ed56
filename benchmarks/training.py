"""Training speed of a classifier, and the time of its convolutions.

    ./launch.sh bench training

Times the step of `train.training` on batches as its loop makes them: order, copying to
the device, augmentation, gradient, update. On a CPU it also times each convolution of
the network: forward, and both gradients, that of the kernel both by XLA and by
`train.models.convolution`. Medians of repeats, after warm-up; for steps also the
smallest and the largest. Writes the section "training" of out/speed.json.
"""

import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from benchmarks import _speed
from train import models
from train.data import loading
from train.models import convolution
from train.present.terminal import print_rows
from train.records.storing import require_replaceable
from train.training.loop import make_optimizer
from train.training.settings import COMPUTE_DTYPES, TrainSettings
from train.training.step import TrainState, make_train_step
from train.utils import errors
from train.utils.errors import UserError
from train.utils.progress import Progress

FLAGS = flags.FLAGS
EPOCH_IMAGES = 50_000  # of CIFAR-10
SIDE, CLASSES = 32, 10


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_list("models", ["small", "resnet18"], f"of {', '.join(models.NAMES)}")
    flags.DEFINE_list(
        "compute_dtypes",
        None,
        "of float32 and bfloat16; default both on an accelerator, float32 on a CPU",
    )
    flags.DEFINE_integer("batch_size", 128, "images in a step", lower_bound=1)
    flags.DEFINE_integer(
        "steps",
        None,
        "steps in a repeat; default 100 on an accelerator, 3 on a CPU",
        lower_bound=1,
    )
    flags.DEFINE_integer("repeats", 5, "how often each is timed", lower_bound=1)
    flags.DEFINE_bool("layers", True, "also time the convolutions one by one, on a CPU")
    flags.DEFINE_string("out", "out/speed.json", "JSON file; other sections stay")


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
    }


def time_training(
    name: str, compute_dtype: str, batch_size: int, steps: int, repeats: int
) -> dict[str, Any]:
    """Times the training step, and the making of batches alone."""
    rng = np.random.default_rng(0)
    count = max(1024, batch_size)
    images = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    graphdef, variables = models.split(models.create(name, CLASSES, 0))
    parameters, statistics_ = nnx.split_state(variables, nnx.Param, ...)
    optimizer, _ = make_optimizer(TrainSettings(), 1000)
    step = make_train_step(graphdef, optimizer, True, compute_dtype)
    state = TrainState(
        jnp.int32(0), parameters, statistics_, optimizer.init(parameters)
    )
    total = steps * (repeats + 1)
    batches = loading.batches(count, batch_size, 0, num_steps=total)
    key = jax.random.key(0)

    start = time.perf_counter()
    seconds, before = [], None
    for repeat in range(repeats + 1):
        if repeat == 1:
            warm_up = time.perf_counter() - start
        begin = time.perf_counter()
        for _ in range(steps):
            batch = next(batches)
            state, metrics = step(state, images[batch], labels[batch], key)
            if before is not None:
                float(before.loss)  # as the loop of `train` does
            before = metrics
        jax.block_until_ready(state)
        seconds.append((time.perf_counter() - begin) / steps)

    batches = loading.batches(count, batch_size, 0, num_steps=total)
    begin = time.perf_counter()
    for batch in batches:
        images[batch], labels[batch]
    making = (time.perf_counter() - begin) / total
    step_seconds = spread(seconds[1:])
    return {
        "model": name,
        "compute_dtype": compute_dtype,
        "batch_size": batch_size,
        "steps_per_repeat": steps,
        "repeats": repeats,
        "step_seconds": step_seconds,
        "steps_per_second": 1 / step_seconds["median"],
        "epoch_seconds": EPOCH_IMAGES / batch_size * step_seconds["median"],
        "making_batches_share": making / step_seconds["median"],
        "warm_up_seconds": warm_up,
    }


def convolutions(name: str, batch_size: int) -> dict[tuple, int]:
    """How often each convolution occurs in a network, by arguments of `time_layer`."""
    found: dict[tuple, int] = {}
    usual = jax.lax.conv_general_dilated

    def note(x, kernel, strides, padding, **options):
        layer = (x.shape, kernel.shape, tuple(strides))
        found[layer] = found.get(layer, 0) + 1
        return usual(x, kernel, strides, padding, **options)

    model = models.outline(name, CLASSES)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = note
    graphdef, variables = models.split(model)
    images = jax.ShapeDtypeStruct((batch_size, SIDE, SIDE, 3), jnp.float32)
    jax.eval_shape(lambda v, x: nnx.merge(graphdef, v)(x), variables, images)
    return found


def time_layer(
    shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    strides: tuple[int, int],
    repeats: int,
) -> dict[str, Any]:
    """Milliseconds of a convolution and its gradients, and its GFLOP."""
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=size), jnp.float32)
        for size in (shape, kernel_shape)
    )
    padding = ((kernel_shape[0] // 2,) * 2,) * 2
    numbers = jax.lax.conv_dimension_numbers(
        shape, kernel_shape, ("NHWC", "HWIO", "NHWC")
    )

    def run(convolve: Callable) -> Callable:
        return lambda x, kernel: convolve(
            x, kernel, strides, padding, dimension_numbers=numbers
        )

    usual, ours = run(jax.lax.conv_general_dilated), run(convolution.convolve)
    dy = jnp.ones_like(usual(x, kernel))
    routes = {
        "forward": lambda x, k, dy: usual(x, k),
        "image_gradient": lambda x, k, dy: jax.vjp(lambda x: usual(x, k), x)[1](dy),
        "kernel_gradient": lambda x, k, dy: jax.vjp(lambda k: usual(x, k), k)[1](dy),
        "kernel_gradient_here": lambda x, k, dy: jax.vjp(lambda k: ours(x, k), k)[1](
            dy
        ),
    }
    times = {}
    for route, function in routes.items():
        compiled = jax.jit(function)
        jax.block_until_ready(compiled(x, kernel, dy))
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            jax.block_until_ready(compiled(x, kernel, dy))
            seconds.append(time.perf_counter() - begin)
        times[route] = 1e3 * statistics.median(seconds)
    return {
        "input": list(shape),
        "kernel": list(kernel_shape),
        "stride": strides[0],
        "gigaflop": 2e-9 * dy.size * int(np.prod(kernel_shape[:3])),
        "milliseconds": times,
    }


def main(argv: Sequence[str]) -> None:
    del argv
    require_replaceable(pathlib.Path(FLAGS.out), "training")
    on_cpu = jax.default_backend() == "cpu"
    dtypes = FLAGS.compute_dtypes or COMPUTE_DTYPES[: 1 if on_cpu else 2]
    for flag, names, known in (
        ("models", FLAGS.models, models.NAMES),
        ("compute_dtypes", dtypes, COMPUTE_DTYPES),
    ):
        for name in names:
            if name not in known:
                raise UserError(f"--{flag} has {name!r}; choose from {known}")
    steps = FLAGS.steps or (3 if on_cpu else 100)
    record: dict[str, Any] = {
        "epoch_images": EPOCH_IMAGES,
        "training": [],
        "layers": [],
    }
    progress = Progress()
    with progress.stage("training", len(FLAGS.models) * len(dtypes)) as advance:
        for name in FLAGS.models:
            for dtype in dtypes:
                record["training"].append(
                    time_training(name, dtype, FLAGS.batch_size, steps, FLAGS.repeats)
                )
                advance()
    if on_cpu and FLAGS.layers:
        for name in FLAGS.models:
            found = convolutions(name, FLAGS.batch_size)
            with progress.stage(f"convolutions of {name}", len(found)) as advance:
                for layer, times in found.items():
                    row = time_layer(*layer, FLAGS.repeats)
                    record["layers"].append({"model": name, "times": times, **row})
                    advance()
    _speed.update(pathlib.Path(FLAGS.out), "training", record)

    cells = [
        (
            row["model"],
            row["compute_dtype"],
            f"{row['steps_per_second']:.2f}",
            f"{row['epoch_seconds']:.0f}",
            f"{row['making_batches_share']:.1%}",
        )
        for row in record["training"]
    ]
    numbers = ("steps/s", "s/epoch", "batches, %")
    print_rows("Training steps", ("model", "dtype"), numbers, cells)
    if not record["layers"]:
        return
    layers = [
        (
            "x".join(map(str, row["input"][1:])),
            "x".join(map(str, row["kernel"])) + f"/{row['stride']}",
            *(
                f"{ms:.1f} ({1e3 * row['gigaflop'] / ms:.0f})"
                for ms in row["milliseconds"].values()
            ),
        )
        for row in record["layers"]
    ]
    numbers = ("input", "kernel", "forward", "image grad.", "kernel grad.", "here")
    print_rows("Convolutions, ms (Gflop/s)", (), numbers, layers)


if __name__ == "__main__":
    define_flags()
    errors.run(main)
