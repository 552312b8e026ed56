"""Items B, V and W: speed of the completion on this device, and its correctness."""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks import _floor
from benchmarks._gpu.context import Context, Program, timed
from benchmarks._gpu.settings import CHOSEN, PRINTED
from splic_jax import SPLICConfig, completion, purify, sample_mask
from splic_jax.layout import tiles
from splic_jax.solvers import algorithm1, kernel

CONCATENATED = dataclasses.replace(CHOSEN, channels="concatenated", mask="independent")
WARPS = (1, 2, 4, 8)
# A pixel that differs by more is counted: a third of what one gray level is to the eye.
_FAR = 0.02

_KEY = 0


def _variant(
    matrices: Array,
    masks: Array,
    config: SPLICConfig,
    blocks: int,
    warps: int,
    products: str,
) -> Array:
    """Both passes by the kernel, with these warps and products."""

    def one_pass(matrices: Array, masks: Array) -> Array:
        return kernel.complete_fused(
            matrices,
            masks,
            config,
            blocks=blocks,
            warps=warps,
            products=products,
            interpret=_interpret(),
        ).matrix

    return algorithm1.alternate(one_pass, matrices, masks, config)


def _interpret() -> bool:
    return jax.default_backend() == "cpu"


variant = jax.jit(_variant, static_argnums=(2, 3, 4, 5))


@functools.partial(jax.jit, static_argnums=2)
def purified(
    images: Array, key: Array, config: SPLICConfig, first_index: Array
) -> Array:
    """`purify`, compiled as a whole."""
    return purify(images, key, config, first_index=first_index)


@functools.partial(jax.jit, static_argnums=2)
def gradient(images: Array, key: Array, config: SPLICConfig) -> Array:
    """That of a weighted sum of the purified pixels, through every step taken."""

    def total(images: Array) -> Array:
        done = purify(images, key, config)
        return jnp.sum(done * jnp.linspace(-1, 1, done.size).reshape(done.shape))

    return jax.grad(total)(images)


@jax.jit
def decomposed(matrices: Array) -> tuple[Array, Array]:
    """The eigenvalues and eigenvectors of X^T X, the start of a completion."""
    tall = jnp.swapaxes(matrices, 1, 2)
    gram = jnp.matmul(matrices, tall, precision="highest")
    values, vectors = jnp.linalg.eigh(gram)
    return values, vectors


def _variants(context: Context) -> Iterator[tuple[int, int, str]]:
    for blocks in (1, 3):
        for warps in context.size(WARPS, (2,)):
            for precision in context.size(tuple(tiles.PRODUCTS), ("float32",)):
                if blocks == 1 or warps > 1:
                    yield blocks, warps, precision


def _sizes(context: Context) -> dict[str, int]:
    return {
        "variants": context.size(2000, 2),
        "fast": context.size(10_000, 4),
        "tracked": context.size(10_000, 4),
        "exact": context.size(1000, 4),
        "exact_concatenated": context.size(20, 2),
        "gradient": context.size(256, 2),
        "exact_gradient": context.size(64, 2),
        "many": context.size(1000, 3),
        "few": 2,
        "large": context.size(64, 1),
        "exact_large": context.size(1, 1),
    }


def _matrices(images: Array, masks: Array, blocks: int) -> tuple[Array, Array]:
    count, height, width, channels = images.shape
    if blocks == 1:
        both = (
            jnp.moveaxis(a, -1, 1).reshape(-1, height, width) for a in (images, masks)
        )
    else:
        both = (
            jnp.moveaxis(a, -1, 2).reshape(count, height, channels * width)
            for a in (images, masks)
        )
    matrices, masks = both
    return matrices, masks


def _masks(count: int, config: SPLICConfig) -> Array:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(_KEY), jnp.arange(count)
    )
    return jax.vmap(
        lambda key: sample_mask(key, (32, 32, 3), 0.5, config.mask, config.mask_design)
    )(keys)


def _shapes(count: int, blocks: int) -> tuple[Any, Any]:
    shape = (3 * count, 32, 32) if blocks == 1 else (count, 32, 96)
    return jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, bool)


def _config(blocks: int) -> SPLICConfig:
    return CHOSEN if blocks == 1 else CONCATENATED


def _size_of(solver: str, config: SPLICConfig) -> str:
    # The GPU's library decomposes only small square matrices in batches.
    wide = solver == "exact" and config.channels == "concatenated"
    return "exact_concatenated" if wide else solver


def _with(config: SPLICConfig, solver: str) -> SPLICConfig:
    return dataclasses.replace(config, solver=solver)


def _large_side(context: Context) -> int:
    return context.size(224, 40)


def programs(context: Context) -> Sequence[Program]:
    """The programs that `run` times."""
    sizes, key = _sizes(context), jax.random.key(_KEY)

    def of(name: str, solver: str, config: SPLICConfig, side: int = 32) -> Program:
        images = jax.ShapeDtypeStruct((sizes[name], side, side, 3), jnp.float32)
        arguments = (images, key, _with(config, solver), _index(0))
        words = f"{name}, {solver}, {config.channels}"
        return Program(words, purified, arguments)

    found = [
        of(_size_of(solver, config), solver, config)
        for config in (CHOSEN, CONCATENATED)
        for solver in ("fast", "tracked", "exact")
    ]
    found += [of(n, s, CHOSEN) for n in ("many", "few") for s in ("fast", "tracked")]
    found += [
        of(name, solver, config, _large_side(context))
        for name, solver in (("large", "tracked"), ("exact_large", "exact"))
        for config in (CHOSEN, CONCATENATED)
    ]
    for name, solver in (("gradient", "tracked"), ("exact_gradient", "exact")):
        images = jax.ShapeDtypeStruct((sizes[name], 32, 32, 3), jnp.float32)
        arguments = (images, key, _with(CHOSEN, solver))
        found.append(Program(name, gradient, arguments))
    return found


def programs_variants(context: Context) -> Sequence[Program]:
    """The programs that `run_variants` times."""
    size = _sizes(context)["variants"]
    return [
        Program(
            f"kernel {blocks}, {warps} warps, {products}",
            variant,
            (*_shapes(size, blocks), _config(blocks), blocks, warps, products),
        )
        for blocks, warps, products in _variants(context)
    ]


def _index(first: int) -> Array:
    return jnp.int32(first)


def run(context: Context) -> Mapping[str, Any]:
    """Speeds, and whether results depend on the batch."""
    values = _test_images(context)
    parts = {
        "speed": (15, lambda: speed(context, values)),
        "batch": (5, lambda: independent_of_batch(context, values)),
        "gradient": (10, lambda: gradients(context, values)),
        "large": (20, lambda: large(context)),
    }
    return _in_parts(context, "completion", parts)


def run_variants(context: Context) -> Mapping[str, Any]:
    """Variants of the kernel, and the solvers against the exact one."""
    values = _test_images(context)
    parts = {
        "variants": (20, lambda: variants(context, values)),
        "agreement": (10, lambda: agreement(context)),
    }
    return _in_parts(context, "kernel", parts)


def run_work(context: Context) -> Mapping[str, Any]:
    """The kernel's bytes and multiply-adds per image, counted on any device."""
    test, count = context.test_set(), context.size(200, 2)
    images = test.images[:count].astype(np.float32) / 255
    counts = _floor.of_an_image(images, _masks(count, CHOSEN), CHOSEN)
    return {"images": f"{test.name}, the first {count}", "counts": counts}


def _test_images(context: Context) -> Array:
    return jnp.asarray(context.test_set().images, jnp.float32) / 255


def _in_parts(
    context: Context, name: str, parts: Mapping[str, tuple[float, Callable[[], Any]]]
) -> Mapping[str, Any]:
    """A record of the parts, each started if enough time is left; saved after each."""
    record: dict[str, Any] = {"images": context.test_set().name}
    for part, (seconds, work) in parts.items():
        if context.left() < seconds and not context.toy:
            record[part] = f"skipped: {context.left():.0f} s were left"
        else:
            try:
                record[part] = work()
            except Exception as error:
                record[part] = f"failed: {type(error).__name__}: {error}"[:2000]
        context.line(f"{name}, {part}: {record[part]}")
        context.save(name, record)
    return record


def _rate(count: int, seconds: Sequence[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "images": count,
        "seconds": [round(s, 6) for s in seconds],
        "images_per_second": round(count / median, 1),
    }


def _difference(got: Array, expected: Array) -> dict[str, float]:
    far = jnp.abs(got - expected)
    return {
        "mean": float(far.mean()),
        "largest": float(far.max()),
        "percent_beyond_0.02": float(100 * (far > _FAR).mean()),
        "finite": bool(jnp.isfinite(got).all()),
    }


def variants(context: Context, values: Array) -> list[dict[str, Any]]:
    """The kernel with each number of warps and both precisions, against exact."""
    count, rows = _sizes(context)["variants"], []
    exact: dict[int, Array] = {}
    for blocks, warps, precision in _variants(context):
        config = _config(blocks)
        arrays = _matrices(values[:count], _masks(count, config), blocks)
        row = {"images_side_by_side": blocks, "warps": warps, "products": precision}
        try:
            spelled = functools.partial(
                variant, *arrays, config, blocks, warps, precision
            )
            row |= _rate(count, timed(spelled, repeats=context.size(3, 1)))
            if blocks not in exact:
                part = context.size(600 if blocks == 1 else 20, 1)
                exact[blocks] = _exact(*(a[:part] for a in arrays), config, blocks)
            part = len(exact[blocks])
            row["to_exact"] = _difference(spelled()[:part], exact[blocks])
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"[:500]
        context.line(str(row))
        rows.append(row)
    return rows


@functools.partial(jax.jit, static_argnums=(2, 3))
def _exact(matrices: Array, masks: Array, config: SPLICConfig, blocks: int) -> Array:
    config = _with(config, "exact")
    return completion.complete_batch(matrices, masks, config, blocks=blocks)


def agreement(context: Context) -> dict[str, Any]:
    """Each solver against the exact one, on original images, through `purify`."""
    originals = context.originals()
    found: dict[str, Any] = {"images": originals.name}
    key = jax.random.key(_KEY)
    cases = {"0.02": PRINTED, "0.15": CHOSEN, "0.15, concatenated": CONCATENATED}
    for name, config in cases.items():
        count = context.size(40 if config is CONCATENATED else 600, 2)
        images = jnp.asarray(originals.images[:count], jnp.float32) / 255
        exact = purified(images, key, _with(config, "exact"), _index(0))
        found[f"lambda {name}"] = {
            solver: _difference(
                purified(images, key, _with(config, solver), _index(0)), exact
            )
            for solver in ("fast", "tracked")
        } | {"count": count}
    return found


def independent_of_batch(context: Context, values: Array) -> dict[str, bool]:
    """Whether an image is purified to the same bits alone and in a batch."""
    sizes, key = _sizes(context), jax.random.key(_KEY)
    found = {}
    for solver in ("fast", "tracked"):
        config = _with(CHOSEN, solver)
        many = purified(values[: sizes["many"]], key, config, _index(0))
        few = purified(values[1:3], key, config, _index(1))
        found[solver] = bool((many[1:3] == few).all())
    return found


def speed(context: Context, values: Array) -> dict[str, Any]:
    """Images per second of `purify` on the device, with mask sampling and clipping."""
    sizes, key, found = _sizes(context), jax.random.key(_KEY), {}
    for config in (CHOSEN, CONCATENATED):
        for solver in ("fast", "tracked", "exact"):
            count = sizes[_size_of(solver, config)]
            chosen = _with(config, solver)
            images = values[:count]
            work = functools.partial(purified, images, key, chosen, _index(0))
            repeats = 1 if solver == "exact" else context.size(5, 1)
            found[f"{solver}, {config.channels}"] = _rate(
                count, timed(work, repeats=repeats)
            )
            context.line(f"{solver}, {config.channels}: {list(found.values())[-1]}")
        shape = _shapes(sizes["fast"], 1 if config is CHOSEN else 3)[0].shape
        matrices = jax.random.uniform(jax.random.key(1), shape)
        taken = timed(functools.partial(decomposed, matrices), repeats=3)
        found[f"eigh alone, {config.channels}"] = _rate(sizes["fast"], taken)
    return found


def gradients(context: Context, values: Array) -> dict[str, Any]:
    """Images per second of the derivative through all rounds of both passes."""
    sizes, key, found = _sizes(context), jax.random.key(_KEY), {}
    for name, solver in (("gradient", "tracked"), ("exact_gradient", "exact")):
        work = functools.partial(
            gradient, values[: sizes[name]], key, _with(CHOSEN, solver)
        )
        found[solver] = _rate(sizes[name], timed(work, repeats=context.size(3, 1)))
        found[solver]["finite"] = bool(jnp.isfinite(work()).all())
    return found


def large(context: Context) -> dict[str, Any]:
    """Speed on synthetic 224 x 224 images with the spectra of photographs."""
    sizes, key, found = _sizes(context), jax.random.key(_KEY), {}
    images = jnp.asarray(_photographs(sizes["large"], _large_side(context)))
    for config in (CHOSEN, CONCATENATED):
        for name, solver in (("large", "tracked"), ("exact_large", "exact")):
            if solver == "exact" and context.left() < context.size(60, 0):
                found[f"exact, {config.channels}"] = "skipped"
                continue
            work = functools.partial(
                purified,
                images[: sizes[name]],
                key,
                _with(config, solver),
                _index(0),
            )
            repeats = 1 if solver == "exact" else context.size(2, 1)
            found[f"{solver}, {config.channels}"] = _rate(
                sizes[name], timed(work, repeats=repeats)
            )
            context.line(f"{solver}, {config.channels}: {list(found.values())[-1]}")
    return found


def _photographs(count: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    axis = np.fft.fftfreq(side)
    frequency = np.hypot(axis, axis[:, None])
    noise = np.fft.fft2(rng.normal(size=(count, 3, side, side)))
    images = np.fft.ifft2(noise / (frequency + 1 / side) ** 1.5).real
    images -= images.min((1, 2, 3), keepdims=True)
    images /= images.max((1, 2, 3), keepdims=True)
    return np.moveaxis(images, 1, -1).astype(np.float32)
