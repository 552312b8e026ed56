"""SPLIC on batches of images: draws each image's mask, completes its channels."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key, Shaped

from splic_jax.arguments import require_key
from splic_jax.completion import complete_batch, in_groups
from splic_jax.config import SPLICConfig
from splic_jax.keys import mappable
from splic_jax.layout.batches import (
    WithFinite,
    accelerator_chunk,
    can_be_split,
    check,
    map_chunks,
    map_pieces,
    numbered,
    require_finite,
)
from splic_jax.layout.channels import from_matrices, to_matrices
from splic_jax.layout.groups import GROUP
from splic_jax.masks.sampling import sample_mask
from splic_jax.solvers import kernel

# Images that make whole groups on a CPU, whatever the number of channels.
_CHUNK_OF_GROUPS = 2 * GROUP

# The kernel needs almost no memory, and its programs end at different times: with more
# of them in a chunk, less time is spent waiting for the last one.
_CHUNK_VALUES_OF_KERNEL = 2**24

# For the CPU: the fast solver's operations are too small to split among cores, which
# take different images instead (`devices`), and can fill wide vector registers.
# `purify` compiles with these options; a `jax.jit` around it replaces them with its
# own and should be given them too (half the time, on two cores).
COMPILER_OPTIONS = {
    "xla_disable_hlo_passes": "cpu-parallel-task-assigner",
    "xla_cpu_prefer_vector_width": "512",
}


def purify(
    images: Shaped[Array | np.ndarray, "..."],
    key: Key[Array, ""],
    config: SPLICConfig = SPLICConfig(),
    *,
    chunk_size: int | None = None,
    first_index: Int[ArrayLike, ""] = 0,
    indices: Int[Array | np.ndarray, " count"] | None = None,
    devices: Sequence[jax.Device] | None = None,
    check_finite: bool = False,
) -> Shaped[Array, "..."]:
    """Purifies images by alternated low-rank completion (paper sections 3.2 to 3.4).

    Image i draws its mask from ``fold_in(key, first_index + i)`` and is completed
    independently, so its result depends on its content and key, never on its batch. On
    the CPU results are equal to the bit whatever the batch, the chunk or the number of
    devices. On an accelerator that holds for the kernel; with the other solvers another
    batch size may change the order of sums, and as the rank cut is discontinuous the
    difference may grow.

    Beyond images and result, memory grows with the chunk, not with the number of images
    (a memory-mapped array is read piece by piece), except under `jax.jit` or another
    transformation, which takes the images as a whole. Compiled once for each image
    shape, `config` and chunk size, and for each size of a batch of less than a few
    chunks. Pure, so `jax.jit` and `jax.grad` apply: the derivative is that of the
    rounds taken by each completion (`splic_jax.complete`). There is no forward mode
    (`jax.jvp`).

    Args:
        images: ``[n, h, w, c]`` or ``[h, w, c]`` with 1 to 4 channels, floats in
            [0, 1] or uint8. With 2 or 4 channels the last is alpha, returned as it is.
        key: a typed key (`jax.random.key`).
        config: the settings of the completion.
        chunk_size: images processed at a time; None chooses from shape and platform.
            On a CPU small images always run four matrices at a time.
        first_index: index of the first image, for purifying a data set in parts.
        indices: the index of each image, in [0, 2^31), if they are not consecutive;
            replaces `first_index`.
        devices: spread the images over these devices; None runs where they are.
        check_finite: wait for the result, and raise a `NotFiniteError` (a `ValueError`)
            if a purified image is not finite. Otherwise such values are NaN, and 0 in
            uint8. Under `jax.jit` it does nothing.

    Returns:
        Purified images, of the shape, dtype and range of the input (float64 needs
        `jax_enable_x64`; without it the result is float32).

    Raises:
        TypeError: if images are not an array, or for an invalid key.
        ValueError: for a wrong shape or dtype, a value out of range (naming the first),
            or a setting that does not fit the shape. Under `jax.jit` values are not
            checked, but reported to `jax.experimental.checkify`.

    Example:
        >>> import jax
        >>> from splic_jax import purify
        >>> image = jax.random.uniform(jax.random.key(0), (8, 8, 3))
        >>> purify(image, jax.random.key(1)).shape
        (8, 8, 3)
    """
    check(images)
    require_key(key)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    batch = images if images.ndim == 4 else images[None]
    if len(batch) == 0:
        return jnp.asarray(images)
    platform = devices[0].platform if devices else jax.default_backend()
    chunk = chunk_size or default_chunk_size(batch.shape[1:], platform, config)
    indices, key = numbered(len(batch), first_index, indices), mappable(key)
    grouped = platform == "cpu" and in_groups(config, batch.shape[1:3])
    split = can_be_split(batch, indices, key)
    purify_batch = _compiled_for_groups if grouped and split else _compiled

    def run(
        images: Array | np.ndarray, indices: Array | np.ndarray, key: Array
    ) -> WithFinite:
        # Groups need no chunks, which would be padded as well.
        size = len(images) if grouped else chunk_size or min(chunk, len(images))
        done: WithFinite = purify_batch(images, indices, key, config, size)
        return done

    if split:
        purified, finite = map_pieces(
            run, batch, indices, key, chunk, platform=platform, devices=devices
        )
    elif not devices:
        purified, finite = run(batch, indices, key)
    else:
        parts = [
            run(*jax.device_put((batch[part], indices[part], key), device))
            for device, part in zip(
                devices,
                np.array_split(np.arange(len(batch)), len(devices)),
                strict=True,
            )
            if len(part)
        ]
        parts = jax.device_put(parts, devices[0])
        purified, finite = (jnp.concatenate(of) for of in zip(*parts, strict=True))
    if check_finite:
        require_finite(finite)
    return purified if images.ndim == 4 else purified[0]


def default_chunk_size(
    shape: tuple[int, ...],
    platform: str,
    config: SPLICConfig = SPLICConfig(),
) -> int:
    """Images of this shape that `purify` processes at a time on this platform.

    One on a CPU, so that each stops as soon as it has converged, unless the fast solver
    completes small ones in groups.
    """
    if platform == "cpu":
        return _CHUNK_OF_GROUPS if in_groups(config, shape[:2]) else 1
    height, width, channels = shape
    blocks = 1 if config.channels == "separate" else channels
    matrix = height, blocks * width
    if kernel.is_wanted(config) and kernel.supports(config, matrix, blocks=blocks):
        return accelerator_chunk(shape, _CHUNK_VALUES_OF_KERNEL)
    return accelerator_chunk(shape)


def _purify_batch(
    images: Shaped[Array, "n h w c"],
    indices: Int[Array, " n"],
    key: Key[Array, ""],
    config: SPLICConfig,
    chunk: int,
    interpret: bool = False,
) -> WithFinite:
    """`purify` in one program; `interpret` as in `complete_batch`."""

    def draw(index: Array, shape: tuple[int, ...]) -> Array:
        kept, kind = config.keep_probability, config.mask
        image_key = jax.random.fold_in(key, index)
        return sample_mask(image_key, shape, kept, kind, config.mask_design)

    def purify_chunk(images: Array, indices: Array) -> Array:
        count, height, width, channels = images.shape
        blocks = 1 if config.channels == "separate" else channels

        def matrices_of(x: Array) -> Array:
            matrices = jax.vmap(partial(to_matrices, channels=config.channels))(x)
            return matrices.reshape(-1, height, blocks * width)

        masks = jax.vmap(partial(draw, shape=images.shape[1:]))(indices)
        completed = complete_batch(
            matrices_of(images),
            matrices_of(masks),
            config,
            blocks=blocks,
            interpret=interpret,
        )
        completed = completed.reshape(count, -1, *completed.shape[1:])
        return jax.vmap(partial(from_matrices, image_channels=channels))(completed)

    return map_chunks(purify_chunk, images, indices, chunk)


_STATIC = ("config", "chunk", "interpret")
_compiled = jax.jit(_purify_batch, static_argnames=_STATIC)
_compiled_for_groups = jax.jit(
    _purify_batch, static_argnames=_STATIC, compiler_options=COMPILER_OPTIONS
)
