"""Image quilting: an image put together from patches of the training images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from splic_jax.fields import array_field, config, require_integer
from splic_jax.transforms.base import per_image


@config
class QuiltingConfig:
    """Settings of `quilt`.

    Attributes:
        patch_size: side of a patch, in pixels; 5 as in Guo et al.; >= 2.
        overlap: of neighbouring patches; from 1 to ``patch_size - 1``.
        neighbours: K, nearest patches of the bank to choose among; 1 takes the nearest
            and nothing is random; >= 1.
        bank_size: patches that `fit_bank` draws; a million in Guo et al., of larger
            images; >= 1.
        bank: the patches, ``[count, patch_size, patch_size, c]``, in [0, 1]; None until
            `fit_bank`.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    patch_size: int = 5
    overlap: int = 2
    neighbours: int = 10
    bank_size: int = 10_000
    bank: Float[Array, "count p p c"] | None = array_field()

    def __post_init__(self) -> None:
        require_integer(self, "patch_size", least=2)
        require_integer(self, "overlap", "neighbours", "bank_size")
        if self.overlap >= self.patch_size:
            raise ValueError(
                f"overlap must be less than patch_size {self.patch_size}, "
                f"got {self.overlap}"
            )


def fit_bank(
    training_images: ArrayLike, key: PRNGKeyArray, config: QuiltingConfig
) -> QuiltingConfig:
    """Draws the bank: patches at random places of random training images.

    Args:
        training_images: ``[n, h, w, c]``, floats in [0, 1] or uint8; alpha is left out.
        key: a typed key.
        config: says how many, and their size.

    Returns:
        The settings with the bank.

    Raises:
        ValueError: if there are no images, or none as large as a patch.
    """
    images, size = np.asarray(training_images), config.patch_size
    if images.ndim != 4 or len(images) == 0 or min(images.shape[1:3]) < size:
        raise ValueError(
            f"training_images must be [n, h, w, c] of at least {size} x {size} pixels, "
            f"got shape {images.shape}"
        )
    count, height, width, channels = images.shape
    limits = jnp.asarray([count, height - size + 1, width - size + 1], jnp.int32)
    places = jax.random.randint(key, (config.bank_size, 3), 0, limits, jnp.int32)
    number, top, left = np.asarray(places).T[:, :, None, None]
    within = np.arange(size)
    patches = images[number, top + within[:, None], left + within]
    patches = patches[..., : channels - (channels in (2, 4))]
    scale = 255 if patches.dtype == np.uint8 else 1
    bank = jnp.asarray(patches, jnp.float32) / scale
    return dataclasses.replace(config, bank=bank)


def minimum_cut(error: Float[Array, "n m"]) -> Int[Array, " n"]:
    """The path down an array of least total, by dynamic programming.

    Args:
        error: of each position; the path moves at most one column from row to row.

    Returns:
        The column of the path in each row.
    """

    def down(above: Array, row: Array) -> tuple[Array, Array]:
        around = jnp.pad(above, 1, constant_values=jnp.inf)
        least = jnp.minimum(jnp.minimum(around[:-2], around[2:]), above)
        return row + least, row + least

    _, totals = jax.lax.scan(down, jnp.zeros_like(error[0]), error, unroll=True)
    columns = jnp.arange(error.shape[1])

    def up(below: Array, row: Array) -> tuple[Array, Array]:
        near = jnp.abs(columns - below) <= 1
        column = jnp.argmin(jnp.where(near, row, jnp.inf)).astype(columns.dtype)
        return column, column

    last = jnp.argmin(totals[-1]).astype(columns.dtype)
    _, path = jax.lax.scan(up, last, totals[:-1], reverse=True, unroll=True)
    return jnp.append(path, last)


def joined(
    old: Float[Array, "p p c"],
    new: Float[Array, "p p c"],
    overlap: int,
    beside: Bool[ArrayLike, ""],
    below: Bool[ArrayLike, ""],
) -> Float[Array, "p p c"]:
    """Lays a patch over what is there, cut where the two differ the least.

    Args:
        old: what is there, of which the overlap counts.
        new: the patch.
        overlap: columns at the left, and rows at the top, that are taken already.
        beside: whether there are such columns.
        below: whether there are such rows.
    """
    error = jnp.sum((old - new) ** 2, -1)
    cuts = jax.vmap(minimum_cut)(jnp.stack([error[:, :overlap], error[:overlap].T]))
    along = jnp.arange(new.shape[0])
    right_of_cut = (along >= cuts[0][:, None]) | ~jnp.asarray(beside)
    under_cut = (along[:, None] >= cuts[1]) | ~jnp.asarray(below)
    return jnp.where((right_of_cut & under_cut)[..., None], new, old)


def nearest(
    patches: Float[Array, "n d"],
    bank: Float[Array, "count d"],
    neighbours: int,
    key: PRNGKeyArray,
) -> Int[Array, " n"]:
    """Draws for each patch one of its nearest in the bank, by squared distance."""
    product = jnp.matmul(patches, bank.T, precision="highest")
    closeness = 2 * product - jnp.sum(bank**2, -1)
    _, best = jax.lax.top_k(closeness, min(neighbours, len(bank)))
    shape, count = (len(patches), 1), best.shape[1]
    choice = jax.random.randint(key, shape, 0, count, jnp.int32)
    return jnp.take_along_axis(best, choice, 1)[:, 0]


def quilt_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: QuiltingConfig
) -> Float[Array, "h w c"]:
    """Replaces the image by patches of the bank that resemble it.

    A grid of overlapping patches covers the image, padded with its edge where needed.
    Each is replaced by one of its K nearest patches in the bank. Where two overlap,
    they meet at the boundary of least squared difference, so every pixel is one of the
    training images.

    Random if K > 1. Its derivative is zero almost everywhere: attack it by BPDA, with
    EOT. Guo et al. cut by a graph cut; this is Efros and Freeman's, by dynamic
    programming.

    References:
        Guo et al. 2018, "Countering adversarial images using input transformations",
        section 3; Efros and Freeman 2001, "Image quilting for texture synthesis and
        transfer", section 2.1.
    """
    if config.bank is None:
        raise ValueError("bank is empty: draw one by fit_bank(training_images, key)")
    size, overlap = config.patch_size, config.overlap
    height, width, channels = image.shape
    if config.bank.shape[1:] != (size, size, channels):
        raise ValueError(
            f"bank must hold patches {(size, size, channels)} for these images and "
            f"this patch_size, got {config.bank.shape[1:]}"
        )
    step = size - overlap
    rows, columns = (1 + max(0, -(-(n - size) // step)) for n in (height, width))
    full = (size + (rows - 1) * step, size + (columns - 1) * step)
    bank = config.bank.astype(image.dtype)
    padded = jnp.pad(
        image, ((0, full[0] - height), (0, full[1] - width), (0, 0)), "edge"
    )

    # Row by row, as a distance to every patch takes memory.
    def choose(row: Array) -> Array:
        strip = jax.lax.dynamic_slice(
            padded, (row * step, 0, 0), (size, full[1], channels)
        )
        cut = [strip[:, i * step : i * step + size].ravel() for i in range(columns)]
        of_row = jax.random.fold_in(key, row)
        flat = bank.reshape(len(bank), -1)
        return nearest(jnp.stack(cut), flat, config.neighbours, of_row)

    chosen = jax.lax.map(choose, jnp.arange(rows))

    def lay(canvas: Array, place: tuple[Array, Array, Array]) -> tuple[Array, None]:
        row, column, number = place
        corner = (row * step, column * step, 0)
        old = jax.lax.dynamic_slice(canvas, corner, bank.shape[1:])
        new = joined(old, bank[number], overlap, column > 0, row > 0)
        return jax.lax.dynamic_update_slice(canvas, new, corner), None

    row, column = (jnp.asarray(i.ravel()) for i in np.indices((rows, columns)))
    canvas, _ = jax.lax.scan(lay, jnp.zeros_like(padded), (row, column, chosen.ravel()))
    return canvas[:height, :width]


quilt = per_image(quilt_one)
