"""Shared by all transforms of images: checks of the images, and batching.

Images are NHWC (or HWC), floats in [0, 1] or uint8. With 2 or 4 channels the last is
alpha, which is never changed.
"""

import collections
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from splic_jax.arguments import described, require_array
from splic_jax.checks import reporter

Done = TypeVar("Done", bound=PyTree[Array])

# Most values in a chunk on an accelerator: enough to fill it.
_CHUNK_VALUES = 2**22
# Most values in a piece of a batch, unless a chunk has more: enough that starting a
# program takes comparatively little time.
_PIECE_VALUES = 2**17

_report_range = reporter("images must be in [0, 1] and not NaN")
_report_finite = reporter("a transformed image is not finite")

# Images, and whether each is finite.
WithFinite = tuple[Shaped[Array, "n h w c2"], Bool[Array, " n"]]


class NotFiniteError(ValueError):
    """A transform returned images that are not finite.

    Attributes:
        images: their indices in the batch.
    """

    def __init__(self, images: Sequence[int]):
        others = f", and so are {len(images) - 1} more" if len(images) > 1 else ""
        super().__init__(
            f"images[{images[0]}] is not finite (NaN or infinity) once transformed"
            f"{others}; the transform's settings have too large a step size, or too "
            "large or small a number"
        )
        self.images = images


def require_finite(finite: Bool[Array, " n"]) -> None:
    """Raises a `NotFiniteError` unless all are; traced values are not checked."""
    if not isinstance(finite, jax.core.Tracer):
        bad = np.flatnonzero(~np.asarray(finite))
        if len(bad):
            raise NotFiniteError(bad.tolist())


def check(images: Array | np.ndarray) -> None:
    """Raises an error unless these are valid images, naming the first bad value.

    Traced values (under `jax.jit`) are not checked.

    Raises:
        TypeError: if they are not an array.
        ValueError: for a wrong shape, dtype or value.
    """
    require_array("images", images)
    if images.ndim not in (3, 4):
        raise ValueError(
            f"images must be [n, h, w, c] or [h, w, c], got {images.shape}"
        )
    *_, height, width, channels = images.shape
    if not (height and width and 1 <= channels <= 4):
        raise ValueError(
            f"images must have pixels and 1 to 4 channels, got shape {images.shape}"
        )
    floating = jnp.issubdtype(images.dtype, jnp.floating)
    if not floating and images.dtype != jnp.uint8:
        raise ValueError(
            f"images must be floats in [0, 1] or uint8, got {images.dtype}"
        )
    if floating and not isinstance(images, jax.core.Tracer):
        # In parts, to bound the memory.
        rows = max(1, _PIECE_VALUES // math.prod(images.shape[1:]))
        for start in range(0, len(images), rows):
            values = np.asarray(_part(images, start, min(rows, len(images) - start)))
            bad = ~((values >= 0) & (values <= 1))  # NaN compares false
            if bad.any():
                first, *rest = (int(i) for i in np.argwhere(bad)[0])
                raise ValueError(
                    f"images must be in [0, 1]: images{[start + first, *rest]} is "
                    f"{values[first, *rest]}"
                )


def numbered(
    count: int,
    first_index: Int[ArrayLike, ""],
    indices: Int[Array | np.ndarray, " count"] | None,
) -> Int[Array | np.ndarray, " count"]:
    """The index of each image: `indices`, or consecutive from `first_index`.

    Raises:
        TypeError: if `indices` is not an array.
        ValueError: if `indices` is not one integer per image.
    """
    if indices is None:
        return np.arange(count) + first_index
    require_array("indices", indices)
    if indices.shape != (count,):
        raise ValueError(f"indices must have shape ({count},), got {indices.shape}")
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ValueError(f"indices must be integers, got {described(indices)}")
    return indices


def accelerator_chunk(shape: tuple[int, ...], values: int = _CHUNK_VALUES) -> int:
    """Most images of this shape that an accelerator processes at a time."""
    return max(1, values // math.prod(shape))


def can_be_split(*arrays: Any) -> bool:
    """Whether `map_pieces` can split these: concrete arrays, each on one device.

    Inside another jit or transformation the outermost one compiles; an array sharded
    over devices needs one program on all of them.
    """
    leaves = jax.tree.leaves((arrays, jnp.zeros(()) + 0))
    return not any(
        isinstance(leaf, jax.core.Tracer)
        or (isinstance(leaf, jax.Array) and len(leaf.devices()) > 1)
        for leaf in leaves
    )


def map_pieces(
    run: Callable[[Array | np.ndarray, Array | np.ndarray, Any], Done],
    images: Shaped[Array | np.ndarray, "n h w c"],
    indices: Int[Array | np.ndarray, " n"],
    shared: Any,
    chunk: int,
    *,
    platform: str,
    devices: Sequence[jax.Device] | None = None,
) -> Done:
    """Runs a compiled function over any number of images, in pieces.

    Beyond images and result, memory is that of about two pieces per device, as the next
    one is queued while one runs. If the batch is not a multiple of the piece, a few
    images run twice, so that all pieces compile to one program.

    Args:
        run: ``(images, indices, shared) -> arrays``, compiled, with the images along
            the first axis; the result of an image must not depend on the others.
        images: concrete, at least one.
        indices: of the images.
        shared: other arrays that `run` takes.
        chunk: images that `run` processes at a time; a piece is one or more chunks.
        platform: of the devices. On the CPU pieces are of equal size.
        devices: get the pieces in turn, the first one also the result; None runs where
            the images are.

    Returns:
        The result of `run` for all images.
    """
    count, ways = len(images), len(devices or [None])
    most = chunk * max(1, _PIECE_VALUES // (chunk * math.prod(images.shape[1:])))
    size = min(most, count)
    if platform == "cpu":
        size = -(-count // (ways * -(-count // (ways * most))))
    started: collections.deque[tuple[int, Done]] = collections.deque()
    result: Done | None = None

    def collect(result: Done | None) -> Done:
        start, done = started.popleft()
        if devices:
            done = jax.device_put(done, devices[0])
        if size == count:
            return done
        if result is None:
            filled: Done = _with_room(done, count)
        else:
            filled = _put(result, done, start)
        return filled

    for number, start in enumerate(range(0, count, size)):
        start = min(start, count - size)
        piece = _part(images, start, size), _part(indices, start, size), shared
        if devices:
            piece = jax.device_put(piece, devices[number % ways])
        started.append((start, run(*piece)))
        if len(started) > 2 * ways:
            jax.block_until_ready(started[0])
            result = collect(result)
    while started:
        result = collect(result)
    assert result is not None  # as there is at least one image
    return result


def _part(array: Array | np.ndarray, start: int, size: int) -> Array | np.ndarray:
    if size == len(array):
        return array
    if isinstance(array, np.ndarray):
        return array[start : start + size]
    return jax.lax.dynamic_slice_in_dim(array, start, size)  # compiled once


@functools.partial(jax.jit, static_argnums=1)
def _with_room(piece: PyTree[Array], count: int) -> PyTree[Array]:
    def pad(piece: Array) -> Array:
        return jnp.pad(piece, ((0, count - len(piece)), *((0, 0),) * (piece.ndim - 1)))

    return jax.tree.map(pad, piece)


@functools.partial(jax.jit, donate_argnums=0)
def _put(
    result: PyTree[Array], piece: PyTree[Array], start: Int[Array, ""]
) -> PyTree[Array]:
    def put(result: Array, piece: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(result, piece, start, 0)

    return jax.tree.map(put, result, piece)


def map_chunks(
    run: Callable[[Array, Array], Array],
    images: Shaped[Array | np.ndarray, "n h w c"],
    indices: Int[Array | np.ndarray, " n"],
    chunk: int,
    least: int = 1,
) -> WithFinite:
    """Maps a function of a chunk of images over a batch.

    Args:
        run: ``(float images in [0, 1], without alpha, indices) -> images``, of the same
            size; called with `chunk` images at a time.
        images: floats in [0, 1] or uint8.
        indices: of the images.
        chunk: images at a time; the last chunk is padded.
        least: minimum number of chunks. The compiler unrolls a loop of one pass, which
            may change the rounding.

    Returns:
        The results of `run`, clipped to [0, 1], in the dtype and range of the input,
        with the alpha of the input; values that are not finite are NaN, and 0 in uint8.
        And whether each image is finite.
    """
    if images.dtype == jnp.uint8:
        values = images.astype(jnp.float32) / 255
    else:
        values = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    _report_range(jnp.all((values >= 0) & (values <= 1)))
    colors = values.shape[-1] - (values.shape[-1] in (2, 4))
    values = values[..., :colors]

    padding = max(-len(values) % chunk, least * chunk - len(values))
    values = jnp.pad(values, ((0, padding), (0, 0), (0, 0), (0, 0)), mode="edge")
    indices = jnp.pad(indices, (0, padding), mode="edge")
    pieces = values.reshape(-1, chunk, *values.shape[1:])
    values = jax.lax.map(
        lambda piece: run(*piece), (pieces, indices.reshape(-1, chunk))
    )
    values = values.reshape(-1, *values.shape[2:])[: len(images)]
    each = jnp.isfinite(values)
    finite = each.all(axis=(1, 2, 3))
    _report_finite(finite.all())
    # Otherwise infinity would be clipped to white or black.
    values = jnp.clip(jnp.where(each, values, jnp.nan), 0, 1)
    if images.dtype == jnp.uint8:
        # The integer that a NaN converts to depends on the platform.
        values = jnp.where(jnp.isnan(values), 0, jnp.round(values * 255))
    values = jnp.concatenate(
        [values.astype(images.dtype), images[..., colors:]], axis=-1
    )
    return values, finite
