"""What every transform of images shares: what it takes, and how it goes over a batch.

Images are NHWC (or HWC), floats in [0, 1] or uint8; of 2 or 4 channels the last is
alpha, which nothing changes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Shaped

# Values in one chunk on an accelerator: enough to fill it, and its working set small.
CHUNK_VALUES = 2**22


def check(images: Array | np.ndarray) -> None:
    """Raises a `ValueError` unless these are images, naming the first bad value.

    Values that are being traced (under `jax.jit`) cannot be checked.
    """
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
        values = np.asarray(images)
        bad = ~((values >= 0) & (values <= 1))  # NaN compares false
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"images must be in [0, 1]: images{list(where)} is {values[where]}"
            )


def numbered(
    count: int,
    first_index: Int[ArrayLike, ""],
    indices: Int[Array | np.ndarray, " count"] | None,
) -> Int[Array | np.ndarray, " count"]:
    """The index of each image: those given, or from `first_index` on.

    Raises:
        ValueError: if there are not as many as images.
    """
    if indices is None:
        return np.arange(count) + first_index
    if indices.shape != (count,):
        raise ValueError(f"indices must have shape ({count},), got {indices.shape}")
    return indices


def map_chunks(
    run: Callable[[Array, Array], Array],
    images: Shaped[Array | np.ndarray, "n h w c"],
    indices: Int[Array | np.ndarray, " n"],
    chunk: int,
    least: int = 1,
) -> Shaped[Array, "n h w c2"]:
    """Maps a function of some images over a batch of them.

    Args:
        run: ``(float images in [0, 1], without alpha, indices) -> images``, of the same
            size; given `chunk` of them each time.
        images: floats in [0, 1] or uint8.
        indices: of the images.
        chunk: images at a time; the last chunk is filled up.
        least: chunks, even if there are fewer images. The compiler takes a loop of one
            pass apart and may then round otherwise.

    Returns:
        What `run` returns, clipped to [0, 1], in the dtype and range of the input, with
        the alpha of the input.
    """
    if images.dtype == jnp.uint8:
        values = images.astype(jnp.float32) / 255
    else:
        values = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    checkify.debug_check(
        jnp.all((values >= 0) & (values <= 1)), "images must be in [0, 1] and not NaN"
    )
    colours = values.shape[-1] - (values.shape[-1] in (2, 4))
    values = values[..., :colours]

    padding = max(-len(values) % chunk, least * chunk - len(values))
    values = jnp.pad(values, ((0, padding), (0, 0), (0, 0), (0, 0)), mode="edge")
    indices = jnp.pad(indices, (0, padding), mode="edge")
    pieces = values.reshape(-1, chunk, *values.shape[1:])
    values = jax.lax.map(
        lambda piece: run(*piece), (pieces, indices.reshape(-1, chunk))
    )
    values = values.reshape(-1, *values.shape[2:])[: len(images)]
    values = jnp.clip(values, 0, 1)
    if images.dtype == jnp.uint8:
        values = jnp.round(values * 255)
    return jnp.concatenate(
        [values.astype(images.dtype), images[..., colours:]], axis=-1
    )
