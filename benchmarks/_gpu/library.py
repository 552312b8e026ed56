"""The programs that users of the library compile, to monitor their compilation.

Imports as little of the benchmark as possible, so that it also runs with an older
checkout of the library.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

import attacks
from benchmarks._gpu.context import Context, Program
from splic_jax import METHODS, SPLICConfig, purify, transform
from splic_jax.transforms import TransformConfig
from train import models
from train.threats.defended import defended

_TRANSFORMS = "usvt", "soft_impute", "nuclear_norm"
_CHANNELS = "separate", "concatenated"
_KERNEL, _PRODUCTS, _EXACT = "kernel", "products", "exact"


def solvers() -> Mapping[str, str]:
    """This library's names of the kernel, the tracked and the exact solver."""
    names = get_args(SPLICConfig.__annotations__["solver"])
    if "tracked" in names:
        return {_KERNEL: "fast", _PRODUCTS: "tracked", _EXACT: "exact"}
    return {_KERNEL: "fused", _PRODUCTS: "fast", _EXACT: "exact"}


@partial(jax.jit, static_argnums=2)
def purified(images: Array, key: Array, config: SPLICConfig) -> Array:
    """`purify`, compiled as a whole."""
    return purify(images, key, config)


@partial(jax.jit, static_argnums=2)
def gradient(images: Array, key: Array, config: SPLICConfig) -> Array:
    """That of the sum of the purified pixels, through all rounds taken."""

    def total(images: Array) -> Array:
        return purify(images, key, config).sum()

    return jax.grad(total)(images)


@partial(jax.jit, static_argnums=2)
def transformed(images: Array, key: Array, config: TransformConfig) -> Array:
    """`transform`, compiled as a whole."""
    return transform(images, key, config)


@partial(jax.jit, static_argnums=4)
def attacked(
    network: Callable[[Array], Array],
    images: Array,
    labels: Array,
    key: Array,
    config: SPLICConfig | None,
) -> attacks.Attacked:
    """PGD of 7 steps on a network, through the purification by BPDA where there is one.

    Each step, and the final prediction, purifies the images and runs the network.
    """
    classifier = defended(network, config, 0, "bpda")
    return attacks.pgd(classifier, images, labels, key, steps=7)


def programs(context: Context) -> list[Program]:
    """Purifications, their gradients, transforms, and a white-box attack."""
    return list(_programs(context))


def _programs(context: Context) -> Iterator[Program]:
    few, many = context.size(64, 2), context.size(1000, 2)
    large, side = context.size(8, 1), context.size(224, 40)
    key = jax.random.key(0)
    images = _shape(few, 32, 32, 3)
    for channels in _CHANNELS:
        for solver in (_KERNEL, _PRODUCTS, _EXACT):
            config = _config(context, solver, channels)
            name = f"purify, {solver}, {channels}, {few} images"
            yield Program(name, purified, (images, key, config))
    for channels in _CHANNELS:
        for solver in (_PRODUCTS, _EXACT):
            config = _config(context, solver, channels)
            name = f"gradient, {solver}, {channels}, {few} images"
            yield Program(name, gradient, (images, key, config))
    for channels in _CHANNELS:
        for solver in (_PRODUCTS, _EXACT):
            config = _config(context, solver, channels)
            name = f"purify, {solver}, {channels}, {large} images {side} x {side}"
            shape = _shape(large, side, side, 3)
            yield Program(name, purified, (shape, key, config))
    for method in _TRANSFORMS:
        arguments = (_shape(many, 32, 32, 3), key, METHODS[method].config)
        yield Program(f"{method}, {many} images", transformed, arguments)
    name = context.size("resnet18", "small")
    network = models.logits_function(*models.split(models.outline(name, 10)))
    labels = jax.ShapeDtypeStruct((few,), jnp.int32)
    for solver in (None, _KERNEL, _PRODUCTS):
        config = None if solver is None else _config(context, solver, "separate")
        through = "" if solver is None else f" through purify, {solver}"
        yield Program(
            f"PGD-7 on {name}{through}, {few} images",
            attacked,
            (network, images, labels, key, config),
        )


def _config(context: Context, solver: str, channels: Any) -> SPLICConfig:
    name: Any = solvers()[solver]
    steps = context.size(SPLICConfig().max_steps, 7)
    return SPLICConfig(solver=name, channels=channels, max_steps=steps)


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
