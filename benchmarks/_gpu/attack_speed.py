"""Item C: attacks compiled whole, against loops in Python, Foolbox and PyTorch.

All start at the same images, use the same number of gradients, and end with a
prediction; the network is a ResNet-18 with random weights, which do not affect speed.
Each computes in its framework's default precision for float32.
"""

import contextlib
import functools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import attacks
from attacks import losses
from benchmarks._gpu import _race
from benchmarks._gpu._race import CONFIDENCE, EPSILON, LEARNING_RATE, STEP_SIZE, Work
from benchmarks._gpu.context import Context, Program
from train import models

OURS, LOOP, FOOLBOX = "compiled whole", "loop in Python", "Foolbox (JAX)"
_SECONDS = 50.0  # for the whole item
_TORCH_SECONDS = 14.0  # of these, at the end, for PyTorch
_LONG = 100_000  # gradients x images from which on the warm-up only compiles


@functools.partial(jax.jit, static_argnames=("steps",))
def compiled_pgd(
    network: Callable, images: Array, labels: Array, key: Array, *, steps: int
) -> attacks.Attacked:
    """PGD from the images themselves."""
    return attacks.pgd(
        lambda x, _: network(x),
        images,
        labels,
        key,
        epsilon=EPSILON,
        step_size=STEP_SIZE,
        steps=steps,
        random_start=False,
    )


@functools.partial(jax.jit, static_argnames=("steps", "constants", "first_constant"))
def compiled_cw(
    network: Callable,
    images: Array,
    labels: Array,
    key: Array,
    *,
    steps: int,
    constants: int,
    first_constant: float,
) -> attacks.CarliniWagner:
    """C&W without early stopping."""
    return attacks.carlini_wagner(
        lambda x, _: network(x),
        images,
        labels,
        key,
        epsilon=EPSILON,
        confidence=CONFIDENCE,
        binary_search_steps=constants,
        learning_rate=LEARNING_RATE,
        steps=steps,
        initial_const=first_constant,
        abort_early=False,
    )


@jax.jit
def logits(network: Callable, images: Array) -> Array:
    """The network's logits."""
    return network(images)


@jax.jit
@functools.partial(jax.value_and_grad, argnums=1)
def pgd_slope(network: Callable, images: Array, labels: Array) -> Array:
    """The cross-entropy, to be differentiated."""
    return losses.cross_entropy(network(images), labels).sum()


@jax.jit
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def cw_slope(
    network: Callable, w: Array, mapped: Array, labels: Array, const: Array
) -> tuple[Array, tuple[Array, Array]]:
    """C&W's objective, to be differentiated; also the images, and their margins."""
    images = (jnp.tanh(w) + 1) / 2
    margin = losses.margin(network(images), labels)
    hinge = jnp.maximum(CONFIDENCE - margin, 0)
    distance = jnp.sum((images - mapped) ** 2, axis=(1, 2, 3))
    return jnp.sum(distance + const * hinge), (images, margin)


def loop_pgd(
    slope: Callable, images: Array, labels: Array, verdict: Callable, *, steps: int
) -> tuple[Array, Array]:
    """PGD step by step: the attacked images, and where they are wrong.

    Args:
        slope: ``(images, labels) -> (loss, gradient)``, compiled.
        images: the start.
        labels: classes.
        verdict: ``images -> logits``, compiled.
        steps: number of steps.
    """
    lower = jnp.maximum(images - EPSILON, 0)
    upper = jnp.minimum(images + EPSILON, 1)
    x = images
    for _ in range(steps):
        _, gradient = slope(x, labels)
        x = jnp.clip(x + STEP_SIZE * jnp.sign(gradient), lower, upper)
    return x, verdict(x).argmax(axis=1) != labels


def loop_cw(
    slope: Callable,
    images: Array,
    labels: Array,
    verdict: Callable,
    *,
    steps: int,
    constants: int,
    first_constant: float,
) -> tuple[Array, Array]:
    """C&W step by step, otherwise as `loop_pgd`.

    Args:
        slope: ``(w, mapped, labels, const) -> (objective, (images, margin)),
            gradient``, compiled.
        images, labels, verdict, steps: as in `loop_pgd`.
        constants: number of constants tried.
        first_constant: the first one.
    """
    n = len(images)
    origin = jnp.arctanh((images * 2 - 1) * 0.999999)
    mapped = (jnp.tanh(origin) + 1) / 2
    optimizer = optax.adam(LEARNING_RATE)
    const = jnp.full(n, first_constant)
    lower, upper = jnp.zeros(n), jnp.full(n, jnp.inf)
    best, best_worth, best_wrong = images, jnp.full(n, -jnp.inf), jnp.full(n, -1.0)
    for _ in range(constants):
        w, state = origin, optimizer.init(origin)
        found = jnp.zeros(n, bool)
        for _ in range(steps):
            (_, (current, margin)), gradient = slope(w, mapped, labels, const)
            update, state = optimizer.update(gradient, state)
            w = w + update
            won = margin > CONFIDENCE
            found = found | won
            size = jnp.sqrt(jnp.sum((current - images) ** 2, axis=(1, 2, 3)))
            worth, wrong = jnp.where(won, -size, margin), won.astype(jnp.float32)
            better = (wrong > best_wrong) | (
                (wrong == best_wrong) & (worth > best_worth)
            )
            best = jnp.where(better[:, None, None, None], current, best)
            best_worth = jnp.where(better, worth, best_worth)
            best_wrong = jnp.where(better, wrong, best_wrong)
        upper = jnp.where(found, const, upper)
        lower = jnp.where(found, lower, const)
        const = jnp.where(jnp.isinf(upper), const * 10, (lower + upper) / 2)
    return best, verdict(best).argmax(axis=1) != labels


def programs(context: Context) -> list[Program]:
    """The programs that `run` calls, with the shapes it calls them with."""
    network = _network_shapes(_network_name(context))
    found = []
    for size in _sizes(context):
        found += [*_slopes(network, size).values(), _verdict(network, size)]
        for work in _works(context):
            if not _too_long(work, size):
                found.append(_ours(network, work, size))
    return found


def warm_up(context: Context) -> None:
    """Compiles the small programs of the loops and of Foolbox; optional for `run`."""
    for size in _sizes(context):
        for entry in _other_entries(context, size):
            with contextlib.suppress(Exception):  # `run` will report it
                entry.warm()


def run(context: Context) -> Mapping[str, Any]:
    """Seconds of PGD and C&W, ours and others', at two batch sizes."""
    deadline = time.monotonic() + min(_SECONDS, context.left() - 2)
    left = lambda: deadline - time.monotonic()  # noqa: E731
    record: dict[str, Any] = {
        "network": f"{_network_name(context)}, random weights of seed 0",
        "settings": {
            "epsilon": EPSILON,
            "step_size": STEP_SIZE,
            "confidence": CONFIDENCE,
            "learning_rate": LEARNING_RATE,
            "abort_early": False,
            "random_start": False,
        },
        "jax": {
            "default_matmul_precision": jax.config.jax_default_matmul_precision,
            "xla_flags": os.environ.get("XLA_FLAGS"),
        },
        "passes_without_a_gradient": {OURS: 2, "others": 1},
        "missing": {},
        "rows": [],
    }
    rows: list[Mapping[str, Any]] = []

    def add(row: Mapping[str, Any]) -> None:
        rows.append(row)
        record["rows"] = _race.with_ratios(rows, OURS)
        context.line(f"  attack_speed: {_in_words(record['rows'][-1])}")
        context.save("attack_speed", record)

    child = _start_torch(context)
    if child is None:
        record["missing"]["PyTorch"] = "not installed"
    try:
        if util.find_spec("foolbox") is None:
            record["missing"][FOOLBOX] = "not installed"
        entries = []
        for size in _sizes(context):
            entries += [
                _our_entry(context, work, size)
                for work in _works(context)
                if not _too_long(work, size)
            ]
            entries += _other_entries(context, size)
        reserved = _TORCH_SECONDS if child else 0.0
        _race.race(entries, lambda: left() - reserved, add)
        record["agreement"] = _agreement(context)
        context.save("attack_speed", record)
        if child:
            _finish_torch(context, child, left(), record, add)
    finally:
        if child and child.poll() is None:
            child.kill()
            child.communicate()
    context.save("attack_speed", record)
    return record


def _network_name(context: Context) -> str:
    return context.size("resnet18", "small")


def _sizes(context: Context) -> tuple[int, ...]:
    return context.size((64, 1000), (8,))


def _too_long(work: Work, size: int) -> bool:
    return work.kind == "cw" and work.constants > 1 and size > 100


def _works(context: Context) -> tuple[Work, ...]:
    return context.size(_race.FULL, _race.TOY)


@functools.cache
def _network(name: str) -> Callable:
    return models.logits_function(*models.split(models.create(name, 10, seed=0)))


@functools.cache
def _network_shapes(name: str) -> Callable:
    return models.logits_function(*models.split(models.outline(name, 10)))


@functools.cache
def _inputs(name: str, size: int) -> tuple[Array, Array]:
    """Images, and the classes that the network predicts for them."""
    images = jnp.asarray(_race.drawn_images(size))
    return images, _answer(name, size)(images).argmax(axis=1).astype(jnp.int32)


def _shape(*sides: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sides, dtype)


def _batch(size: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    return _shape(size, 32, 32, 3), _shape(size, dtype=jnp.int32)


def _ours(network: Callable, work: Work, size: int) -> Program:
    """The library's attack."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    options: dict[str, Any] = {"steps": work.steps}
    if work.kind == "cw":
        options |= {
            "constants": work.constants,
            "first_constant": work.first_constant,
        }
    function = compiled_pgd if work.kind == "pgd" else compiled_cw
    name = f"{work.name}, {size} images"
    arguments = (network, *_batch(size), key)
    return Program(name, function, arguments, options, _family(size))


def _family(size: int) -> str:
    return f"float32, {size} images"


def _slopes(network: Callable, size: int) -> dict[str, Program]:
    """The programs that the loops call in each step, by the kind of work."""
    images, labels = _batch(size)
    cw = (network, images, images, labels, _shape(size))
    return {
        "pgd": Program(
            f"slope of PGD, {size} images",
            pgd_slope,
            (network, *_batch(size)),
            {},
            _family(size),
        ),
        "cw": Program(f"slope of C&W, {size} images", cw_slope, cw, {}, _family(size)),
    }


def _verdict(network: Callable, size: int) -> Program:
    images, _ = _batch(size)
    name = f"logits, {size} images"
    return Program(name, logits, (network, images), {}, _family(size))


def _executable(program: Program) -> Callable:
    """A compiled program, from the cache; called without static arguments.

    Calling the function itself would compare structures of networks in each call, which
    takes milliseconds.
    """
    lowered = program.function.lower(*program.arguments, **program.options)
    return lowered.compile()


@functools.cache
def _attack(name: str, work: Work, size: int) -> Callable:
    """``(images, labels) -> result`` of the library's attack."""
    executable = _executable(_ours(_network_shapes(name), work, size))
    network, key = _network(name), jax.random.key(0)
    return lambda images, labels: executable(network, images, labels, key)


@functools.cache
def _answer(name: str, size: int) -> Callable:
    """``images -> logits``."""
    executable = _executable(_verdict(_network_shapes(name), size))
    return functools.partial(executable, _network(name))


@functools.cache
def _slope(name: str, kind: str, size: int) -> Callable:
    executable = _executable(_slopes(_network_shapes(name), size)[kind])
    return functools.partial(executable, _network(name))


def _our_entry(context: Context, work: Work, size: int) -> _race.Entry:
    name = _network_name(context)

    def once() -> None:
        attack = _attack(name, work, size)
        jax.block_until_ready(attack(*_inputs(name, size)))

    def warm() -> None:
        _attack(name, work, size), _inputs(name, size)
        if work.gradients * size < _LONG:
            once()

    return _race.Entry(OURS, work, size, warm, once)


def _other_entries(context: Context, size: int) -> list[_race.Entry]:
    name, entries = _network_name(context), []
    with_foolbox = util.find_spec("foolbox") is not None
    for work in _works(context):
        entries.append(_entry(LOOP, work, size, functools.partial(_looped, name)))
        if with_foolbox:
            once = functools.partial(_foolboxed, name)
            entries.append(_entry(FOOLBOX, work, size, once))
    return entries


def _entry(
    library: str, work: Work, size: int, attack: Callable[[Work, int], Any]
) -> _race.Entry:
    return _race.Entry(
        library,
        work,
        size,
        lambda: jax.block_until_ready(attack(work.beginning, size)),
        lambda: jax.block_until_ready(attack(work, size)),
    )


def _looped(name: str, work: Work, size: int) -> tuple[Array, Array]:
    slope, verdict = _slope(name, work.kind, size), _answer(name, size)
    images, labels = _inputs(name, size)
    if work.kind == "pgd":
        return loop_pgd(slope, images, labels, verdict, steps=work.steps)
    return loop_cw(
        slope,
        images,
        labels,
        verdict,
        steps=work.steps,
        constants=work.constants,
        first_constant=work.first_constant,
    )


@functools.cache
def _foolbox_model(name: str) -> Any:
    # Foolbox imports GitPython, which otherwise fails without git.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import foolbox

    return foolbox.JAXModel(jax.jit(_network(name)), bounds=(0, 1))


def _foolboxed(name: str, work: Work, size: int) -> tuple[Array, Array]:
    model = _foolbox_model(name)
    import foolbox

    if work.kind == "pgd":
        epsilon = EPSILON
        attack = foolbox.attacks.LinfPGD(
            rel_stepsize=None,
            abs_stepsize=STEP_SIZE,
            steps=work.steps,
            random_start=False,
        )
    else:
        epsilon = None
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=work.constants,
            steps=work.steps,
            stepsize=LEARNING_RATE,
            confidence=CONFIDENCE,
            initial_const=work.first_constant,
            abort_early=False,
        )
    images, labels = _inputs(name, size)
    _, attacked, wrong = attack(model, images, labels, epsilons=epsilon)
    return attacked, wrong


def _agreement(context: Context) -> Mapping[str, Any]:
    """The share of the pixels equal to ours after the first of the works.

    Below 1 where rounding, mostly of TF32, changes the sign of a gradient near 0.
    """
    name, work, size = _network_name(context), _works(context)[0], _sizes(context)[0]
    images, labels = _inputs(name, size)
    expected = np.asarray(_attack(name, work, size)(images, labels).images)
    shares: dict[str, Any] = {"work": work.name, "images": size}
    for library, attack in {LOOP: _looped, FOOLBOX: _foolboxed}.items():
        try:
            found, _ = attack(name, work, size)
        except Exception as error:  # its rows report it too
            shares[library] = type(error).__name__
        else:
            shares[library] = float((abs(np.asarray(found) - expected) < 1e-6).mean())
    return shares


def _start_torch(
    context: Context, device: str = "cuda"
) -> subprocess.Popen[str] | None:
    """PyTorch's process, which waits for a signal to begin; None if not installed."""
    if util.find_spec("torch") is None:
        return None
    wanted = {
        "network": _network_name(context),
        "sizes": _sizes(context),
        "works": _works(context),
        "device": device,
    }
    root = pathlib.Path(__file__).parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks._gpu._torch_attacks", json.dumps(wanted)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",  # there JAX only draws the weights
            "PYTHONPATH": os.pathsep.join(paths),
        },
    )


def _finish_torch(
    context: Context,
    child: subprocess.Popen[str],
    seconds: float,
    record: dict[str, Any],
    add: Callable[[Mapping[str, Any]], None],
) -> None:
    """Tells PyTorch's process to begin, and collects its rows."""
    try:
        told = f"{max(seconds - 3, 1)}\n"
        output, complaint = child.communicate(told, timeout=max(seconds, 2))
    except subprocess.TimeoutExpired:
        child.kill()
        output, complaint = child.communicate()
        record["missing"]["PyTorch, the rest"] = "out of time"
    if child.returncode and "PyTorch, the rest" not in record["missing"]:
        record["missing"]["PyTorch, the rest"] = complaint[-1000:]
    for line in _objects(output):
        if "missing" in line:
            record["missing"]["PyTorch"] = line["missing"]
        elif "row" in line:
            add(line["row"])
        else:
            record["torch"] = line["settings"]
            record["torch"]["logits"] = _differences(context, line["logits"])


def _differences(context: Context, theirs: Sequence[Sequence[float]]) -> Mapping:
    """The distance of the twin's logits from the network's, on a few images."""
    name, size = _network_name(context), _sizes(context)[0]
    images, _ = _inputs(name, size)
    own = np.asarray(_answer(name, size)(images))[: len(theirs)]
    return {
        "largest_difference": float(abs(own - np.asarray(theirs)).max()),
        "standard_deviation": float(own.std()),
    }


def _objects(output: str) -> Iterator[dict[str, Any]]:
    for line in output.splitlines():
        with contextlib.suppress(ValueError):  # a partial line, or other output
            found = json.loads(line)
            if isinstance(found, dict):
                yield found


def _in_words(row: Mapping[str, Any]) -> str:
    what = f"{row['work']}, {row['images']} images, {row['library']}: "
    if "images_per_second" not in row:
        return what + (row.get("skipped") or row["error"])
    ratio = f", {row['ratio']:.2f} x ours" if "ratio" in row else ""
    return f"{what}{np.median(row['seconds']):.3f} s{ratio}"
