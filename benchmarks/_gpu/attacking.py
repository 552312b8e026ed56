"""Attacks through defenses, and their evaluation, from few compiled programs.

The L-infinity attacks of `train.threats.attackers` in parts, to save compile time: one
gradient, one step, one transform and one prediction, in batches of one size, serve FGSM
and PGD with any number of steps and masks. With the identity for the transform's
derivative (BPDA) the gradient is the network's at the transformed image. Nothing waits
for the device between batches.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int8, Key

from attacks import norms
from attacks.losses import cross_entropy
from benchmarks._gpu import networks
from benchmarks._gpu.context import Context, Images, Program, interval
from splic_jax import SPLICConfig, method_of, transform
from splic_jax.transforms import TransformConfig
from splic_jax.transforms.registry import as_dict
from train.threats import attackers
from train.threats.attackers import AttackSettings

# Images -> logits; a `jax.tree_util.Partial` whose weights are arguments.
Network = Any
_SIDE = 32


class Data(NamedTuple):
    """Images on the device in batches of one size, the last one padded.

    Attributes:
        images: of each batch, float32 in [0, 1].
        labels: of each batch, int32.
        indices: of each batch; the padding repeats the first images.
        truth: the labels of the images, without padding.
        name: of the images in results.
    """

    images: tuple[Float[Array, "b h w c"], ...]
    labels: tuple[Int[Array, " b"], ...]
    indices: tuple[Int[Array, " b"], ...]
    truth: Int[np.ndarray, " n"]
    name: str


def batched(images: Images, size: int, count: int | None = None) -> Data:
    """The first `count` of some images, or all, in batches of this size."""
    count = min(count or len(images.labels), len(images.labels))
    numbers = np.arange(-(-count // size) * size, dtype=np.int32) % count
    parts = numbers.reshape(-1, size)
    pixels = [images.images[part].astype(np.float32) / 255 for part in parts]
    whole = count == len(images.labels)
    return Data(
        tuple(jnp.asarray(part) for part in pixels),
        tuple(jnp.asarray(images.labels[part], jnp.int32) for part in parts),
        tuple(jnp.asarray(part) for part in parts),
        images.labels[:count],
        images.name if whole else f"{images.name}, the first {count:,}",
    )


@jax.jit
def named(network: Network, images: Float[Array, "b h w c"]) -> Int8[Array, " b"]:
    """The class that a network predicts; -1 where its logits are not finite."""
    logits = network(images)
    finite = jnp.isfinite(logits).all(axis=-1)
    return jnp.where(finite, logits.argmax(axis=-1), -1).astype(jnp.int8)


@partial(jax.jit, static_argnames="config")
def transformed(
    images: Float[Array, "b h w c"],
    key: Key[Array, ""],
    indices: Int[Array, " b"],
    config: TransformConfig,
) -> Float[Array, "b h w c"]:
    """The transformed images."""
    return transform(images, key, config, indices=indices)


@jax.jit
def slope(
    network: Network,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    total: Float[Array, "b h w c"],
) -> Float[Array, "b h w c"]:
    """`total` plus the gradient of a network's loss at these images."""
    return _added(network, images, labels, total)


@partial(jax.jit, static_argnames="config")
def true_slope(
    network: Network,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    total: Float[Array, "b h w c"],
    key: Key[Array, ""],
    indices: Int[Array, " b"],
    config: SPLICConfig,
) -> Float[Array, "b h w c"]:
    """`slope` through the purification, at the images before it."""
    apply = partial(transform, key=key, config=config, indices=indices)
    return _added(lambda x: network(apply(x)), images, labels, total)


@jax.jit
def _start(clean: Array, key: Key[Array, ""], indices: Array, epsilon: Array) -> Array:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    return norms.random_in_ball(keys, clean, epsilon, "linf")


@jax.jit
def _move(
    images: Array, clean: Array, total: Array, step_size: Array, epsilon: Array
) -> Array:
    moved = images + step_size * norms.direction(total, "linf")
    return norms.project(moved, clean, epsilon, "linf")


@partial(jax.jit, static_argnames="samples")
def _keys(key: Key[Array, ""], step: Array, samples: int) -> tuple[Array, ...]:
    """The keys of the queries of a step, as `attacks.pgd` draws them."""
    key = jax.random.fold_in(key, step)
    return (key,) if samples == 1 else tuple(jax.random.split(key, samples))


@partial(jax.jit, static_argnames="steps")
def _carlini_wagner(
    network: Network, images: Array, labels: Array, key: Key[Array, ""], steps: int
) -> Array:
    attack = AttackSettings(name="cw", steps=steps)
    return attackers.attack_batch(network, images, labels, key, 0, None, attack).images


def attacked(
    network: Network,
    data: Data,
    key: Key[Array, ""],
    attack: AttackSettings,
    config: TransformConfig | None = None,
) -> Data:
    """The images as attacked by `attackers.attack_batch`, with one key for all.

    Args:
        network: images to logits.
        data: the images.
        key: of the attack.
        attack: "fgsm", "pgd" without restarts, or "cw", the latter for bare networks.
        config: of the transform that the attacker knows; None for the bare network.
    """
    found = [
        _attacked(network, *batch, key, attack, config)
        for batch in zip(data.images, data.labels, data.indices, strict=True)
    ]
    return data._replace(images=tuple(found))


def _attacked(
    network: Network,
    clean: Array,
    labels: Array,
    indices: Array,
    key: Key[Array, ""],
    attack: AttackSettings,
    config: TransformConfig | None,
) -> Array:
    if attack.name == "cw":
        assert config is None
        return _carlini_wagner(network, clean, labels, key, attack.steps)
    start_key, query_key = jax.random.split(key)
    epsilon, step_size = jnp.float32(attack.epsilon), jnp.float32(attack.step_size)
    if attack.name == "fgsm":
        images, step_size = clean, epsilon
    else:
        images = _start(clean, start_key, indices, epsilon)
    nothing = jnp.zeros_like(clean)
    for step in range(attack.steps):
        total = nothing
        for mask in _keys(query_key, jnp.int32(step), attack.eot_samples):
            total = _gradient(
                network, images, labels, indices, total, mask, attack, config
            )
        images = _move(images, clean, total, step_size, epsilon)
    return images


def _gradient(
    network: Network,
    images: Array,
    labels: Array,
    indices: Array,
    total: Array,
    mask: Key[Array, ""],
    attack: AttackSettings,
    config: TransformConfig | None,
) -> Array:
    if config is not None and attack.derivative == "true":
        return true_slope(network, images, labels, total, mask, indices, config)
    if config is not None:
        if method_of(config).backward is not None:
            raise ValueError(f"{config} has a derivative of its own to stand in")
        images = transformed(images, mask, indices, config)
    return slope(network, images, labels, total)


class Plan(NamedTuple):
    """An attack that fits into the time available.

    Attributes:
        attack: with fewer masks or steps than asked for, if these take too long; None
            if not even one step fits.
        seconds_a_gradient: for one batch and mask, measured.
    """

    attack: AttackSettings | None
    seconds_a_gradient: float


def planned(
    network: Network,
    data: Data,
    attack: AttackSettings,
    config: TransformConfig | None,
    seconds: float,
) -> Plan:
    """Reduces the masks of an attack, then its steps, to fit into some seconds."""
    images, labels, indices = data.images[0], data.labels[0], data.indices[0]
    key = jax.random.key(0)

    def once() -> float:
        start = time.perf_counter()
        total = jnp.zeros_like(images)
        jax.block_until_ready(
            _gradient(network, images, labels, indices, total, key, attack, config)
        )
        return time.perf_counter() - start

    once()  # compiles
    taken = once()
    gradients = int(seconds / taken / len(data.images))
    if gradients < 1:
        return Plan(None, taken)
    steps = min(attack.steps, gradients)
    samples = min(attack.eot_samples, gradients // steps)
    return Plan(dataclasses.replace(attack, steps=steps, eot_samples=samples), taken)


def answers(
    network: Network,
    data: Data,
    key: Key[Array, ""] | None = None,
    config: TransformConfig | None = None,
) -> list[Array]:
    """The predictions of a network behind a transform, on the device, in batches."""
    found = []
    for images, indices in zip(data.images, data.indices, strict=True):
        if config is not None:
            images = transformed(images, key, indices, config)
        found.append(named(network, images))
    return found


def right(data: Data, found: Sequence[Array]) -> Bool[np.ndarray, " n"]:
    """Where the label was predicted; waits for the device."""
    return _whole(data, found) == data.truth


def accuracy(data: Data, found: Sequence[Array]) -> dict[str, float]:
    """The accuracy with its interval; waits for the device."""
    return interval(int(right(data, found).sum()), len(data.truth))


def votes(data: Data, several: Sequence[Sequence[Array]]) -> dict[str, Any]:
    """Accuracy with several masks: with one, the mean, and that of the vote.

    The vote is that of `attacks.judge`: in a tie the first class wins.
    """
    found = np.stack([_whole(data, one) for one in several])
    classes = np.arange(max(10, found.max() + 1))
    counts = (found[..., None] == classes).sum(axis=0)
    majority = (counts.argmax(axis=1) == data.truth) & (counts.max(axis=1) > 0)
    each = [int((one == data.truth).sum()) for one in found]
    return {
        "one_mask": interval(each[0], len(data.truth)),
        "mean_over_masks": float(np.mean(each)) / len(data.truth),
        "each_mask_correct": each,
        "majority": interval(int(majority.sum()), len(data.truth)),
        "masks": len(found),
    }


def _whole(data: Data, found: Sequence[Array]) -> Int8[np.ndarray, " n"]:
    return np.concatenate(jax.device_get(list(found)))[: len(data.truth)]


def _added(
    logits: Callable[[Array], Array], images: Array, labels: Array, total: Array
) -> Array:
    def loss(images: Array) -> Array:
        return cross_entropy(logits(images), labels).sum()

    gradient = jax.grad(loss)(images)
    return total + jnp.where(jnp.isfinite(gradient), gradient, 0)


class Shapes(NamedTuple):
    """Arguments of the programs, for one batch."""

    images: jax.ShapeDtypeStruct
    labels: jax.ShapeDtypeStruct
    key: Any

    @classmethod
    def of(cls, size: int) -> "Shapes":
        return cls(
            jax.ShapeDtypeStruct((size, _SIDE, _SIDE, 3), jnp.float32),
            jax.ShapeDtypeStruct((size,), jnp.int32),
            jax.eval_shape(lambda: jax.random.key(0)),
        )


def program_named(name: str, network: Network, size: int) -> Program:
    """Of `named`, for the architecture `name`."""
    arguments = (network, Shapes.of(size).images)
    return Program(f"{name}, answers", named, arguments, {}, name)


def program_slope(name: str, network: Network, size: int) -> Program:
    """Of `slope`."""
    x, y, _ = Shapes.of(size)
    return Program(f"{name}, gradient", slope, (network, x, y, x), {}, name)


def program_transformed(config: TransformConfig, size: int) -> Program:
    """Of `transformed`."""
    x, y, key = Shapes.of(size)
    words = as_dict(config)["method"]
    if isinstance(config, SPLICConfig):
        words += f", lambda {config.tv_weight:g}"
    return Program(f"{words}, {size}", transformed, (x, key, y), {"config": config})


def program_true_slope(
    name: str, network: Network, config: SPLICConfig, size: int
) -> Program:
    """Of `true_slope`."""
    x, y, key = Shapes.of(size)
    arguments = (network, x, y, x, key, y)
    options = {"config": config}
    words = f"{name}, gradient through SPLIC"
    return Program(words, true_slope, arguments, options, name)


def program_carlini_wagner(
    name: str, network: Network, steps: int, size: int
) -> Program:
    """Of the attack "cw"."""
    x, y, key = Shapes.of(size)
    options = {"steps": steps}
    arguments = (network, x, y, key)
    return Program(f"{name}, C&W", _carlini_wagner, arguments, options, name)


def programs_small(size: int, samples: Sequence[int] = (1,)) -> list[Program]:
    """The small programs around the others, which compile quickly."""
    x, y, key = Shapes.of(size)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    return [
        Program("random start", _start, (x, key, y, number)),
        Program("step", _move, (x, x, x, number, number)),
        *(Program(f"{n} keys", _keys, (key, step), {"samples": n}) for n in samples),
    ]


def settings_of(attack: AttackSettings) -> dict[str, Any]:
    """An attack's settings for a record, in words and as numbers."""
    return {"words": attack.words(), **dataclasses.asdict(attack)}


def batch_size(context: Context) -> int:
    """Batch size of every program."""
    return context.size(networks.BATCH, 4)
