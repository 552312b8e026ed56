"""The whole completion of a small matrix in one GPU kernel, its state on the chip.

One program of the grid completes one matrix: it reads the anchors, the places to fill
in, and a basis to start from, runs round after round until its own matrix has
converged, and writes the result. What it computes is `splic_jax.tiles`; here it is
spelled for Triton by Pallas, whose tiles have sides that are powers of two, at least
16. JAX 0.11 announces that it will go without Pallas for Triton one day: Mosaic for
GPUs, or jax_triton, would take the place of `_spelled`.

The basis comes from an eigendecomposition of ``X^T X`` by the GPU's library. That
product too is made by a program for each matrix, so that nothing that a matrix's result
depends on is computed together with other matrices' in an order that is theirs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

from splic_jax import completion, tiles, tracked
from splic_jax.config import SPLICConfig
from splic_jax.tiles import Tiles

_LARGEST_SIDE = 32
_MOST_BLOCKS = 4
# Of 1, 2, 4 and 8 warps the fastest on an H200, for one image and for three side by
# side; and in float32 rather than three products in TF32, as tiles are small and each
# factor would have to be split (results/gpu/kernel.json).
_WARPS = 4
_PRODUCTS = "float32"


def supports(
    config: SPLICConfig,
    shape: tuple[int, ...],
    dtype: Any = jnp.float32,
    *,
    blocks: int = 1,
) -> bool:
    """Whether `complete_fused` completes matrices of this shape with these settings.

    Else it is for `splic_jax.complete` to do: double precision, the exact solver, no
    rank cut, a TV over several scales, an image with a side above 32, or more than 4
    of them side by side.
    """
    one_scale = config.tv_scales == 1 or config.tv_weight == 0
    height, width = shape
    wide = blocks == 1 or (height <= width and blocks <= _MOST_BLOCKS)
    return (
        completion._is_fast(config, shape, dtype)
        and one_scale
        and wide
        and max(height, width // blocks) <= _LARGEST_SIDE
    )


def runs_kernel(config: SPLICConfig) -> bool:
    """Whether settings ask for the kernel, on the devices there are."""
    return config.solver == "fast" and jax.default_backend() == "gpu"


def complete_batch(
    matrices: Float[Array, "b m n"],
    masks: Bool[Array, "b m n"],
    config: SPLICConfig = SPLICConfig(),
    *,
    rounds: int | None = None,
    blocks: int = 1,
) -> Float[Array, "b m n"]:
    """`splic_jax.completion.complete_batch`, by the kernel where `config` says so.

    That is with ``solver="fast"`` on a GPU, and with "interpreted" on any device. What
    the kernel does not take, `rounds` among it, is done without.
    """
    interpret = config.solver == "interpreted"
    shape, dtype = matrices.shape[1:], matrices.dtype
    if rounds is not None or not (
        (interpret or runs_kernel(config))
        and supports(config, shape, dtype, blocks=blocks)
    ):
        return completion.complete_batch(
            matrices, masks, config, rounds=rounds, blocks=blocks
        )

    def one_pass(matrices: Array, masks: Array) -> Array:
        run = functools.partial(
            complete_fused, config=config, blocks=blocks, interpret=interpret
        )
        return completion.differentiable(run, config, blocks)(matrices, masks).matrix

    return completion._alternate(one_pass, matrices, masks, config)


def complete_fused(
    matrices: Float[Array, "b m n"],
    masks: Bool[Array, "b m n"],
    config: SPLICConfig = SPLICConfig(),
    *,
    blocks: int = 1,
    warps: int | None = None,
    products: str | None = None,
    interpret: bool = False,
) -> completion.Completion:
    """`jax.vmap(splic_jax.complete)` of the fast solver, one GPU program a matrix.

    For a matrix of 32 x 32 at rank 8 a program reads 10 KB and writes 4. Between steps
    it holds 14 KB in float32: the iterate, and the differences of rows and of columns
    (4 KB each), and the basis (2 KB); within one also the basis' images (2 KB), three
    16 x 16 matrices (1 KB each) and the factors of a product. The anchors and the
    places to fill in are read again in each step, from the nearest cache. A step takes
    between half a MFLOP and one, as it makes one correction or three.

    Not differentiable by itself: see `splic_jax.completion.differentiable`.

    Args:
        matrices: pixel values.
        masks: True at the anchors, of which each matrix needs some: this is not
            checked, nor that they are finite.
        config, blocks: as in `splic_jax.complete`.
        warps: of a program; None for what was the fastest.
        products: of `tiles.PRODUCTS`; None for what was the fastest.
        interpret: run the kernel without compiling it, on any device: for tests.

    Returns:
        A `Completion` of arrays with a leading axis b, without trace.

    Raises:
        ValueError: for what `supports` denies, or a rank above min(m, n).
    """
    if matrices.ndim != 3 or matrices.shape != masks.shape:
        raise ValueError(
            "matrices and masks must be [b, m, n] of one shape, got "
            f"{matrices.shape} and {masks.shape}"
        )
    if not supports(config, matrices.shape[1:], matrices.dtype, blocks=blocks):
        raise ValueError(
            f"matrices {matrices.shape[1:]} of {matrices.dtype} with {config} are not "
            "for the fused kernel; use splic_jax.complete"
        )
    spell = functools.partial(
        _spelled,
        products=products or _PRODUCTS,
        warps=warps or _WARPS,
        interpret=interpret,
    )
    count, m, n = matrices.shape
    rank = config.rank_of((m, n))
    # A tile has a row for each entry of the singular vectors that are not tracked.
    wide = m < n
    side = min(m, n)
    shape = max(m, n) // blocks, side
    padded = _padded(shape[0]), _padded(side)

    def to_tiles(arrays: Array) -> Array:
        tall = jnp.swapaxes(arrays, 1, 2) if wide else arrays
        return _pad(tall.reshape(count, blocks, *shape), *padded)

    anchors = jnp.where(masks, matrices, 0) * config.pixel_scale
    kept = to_tiles(anchors)
    gram, square = spell(
        _gram_kernel, [kept], [padded[1:] * 2, ()], [kept.dtype] * 2, name="splic_gram"
    )
    # As in `completion._start`; a power of two, so that nothing is rounded.
    bound = jnp.sqrt(square)
    unit = jnp.ldexp(jnp.ones_like(bound), jnp.frexp(bound)[1])
    gram = gram[:, :side, :side] / unit[:, None, None] / unit[:, None, None]
    vectors = jax.vmap(tracked._eigenvectors)(gram)
    size = tracked.basis_size(rank, side)
    x, rounds, change = spell(
        functools.partial(
            _kernel, config=config, shape=shape, rank=rank, whole=size == side
        ),
        [
            kept / unit[:, None, None, None],
            to_tiles(1 - masks.astype(matrices.dtype)),
            _pad(vectors[:, :, :size], padded[1], _padded(size)),
            unit,
        ],
        [kept.shape[1:], (), ()],
        [matrices.dtype, jnp.int32, matrices.dtype],
        name="splic",
    )
    x = x[:, :, : shape[0], :side].reshape(count, -1, side)
    x = jnp.swapaxes(x, 1, 2) if wide else x
    scale = (unit / config.pixel_scale)[:, None, None]
    return completion.Completion(
        matrix=jnp.where(masks, matrices, x * scale),
        steps=rounds * config.inner_steps,
        relative_change=change,
        converged=change <= config.tolerance,
    )


def _spelled(
    kernel: Callable[..., None],
    arguments: Sequence[Array],
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[Any],
    *,
    name: str,
    products: str,
    warps: int,
    interpret: bool,
) -> tuple[Array, ...]:
    """Runs a kernel on each matrix, which is the leading axis of all arguments.

    Args:
        kernel: of references to the arguments and the results of one matrix.
        arguments: arrays.
        shapes, dtypes: of the results, without the leading axis.
        name: of the kernel.
        products: of `tiles.PRODUCTS`.
        warps: of a program.
        interpret: as in `complete_fused`.
    """

    def block(shape: tuple[int, ...]) -> pl.BlockSpec:
        return pl.BlockSpec((None, *shape), lambda i: (i, *(0 for _ in shape)))

    def body(*references: jax.Ref) -> None:
        token = tiles.products.set(products)
        try:
            kernel(*references)
        finally:
            tiles.products.reset(token)

    count = len(arguments[0])
    run = pl.pallas_call(
        body,
        grid=(count,),
        in_specs=[block(a.shape[1:]) for a in arguments],
        out_specs=[block(shape) for shape in shapes],
        out_shape=[
            jax.ShapeDtypeStruct((count, *shape), dtype)
            for shape, dtype in zip(shapes, dtypes, strict=True)
        ],
        interpret=interpret,
        compiler_params=None if interpret else _compiler_params(warps),
        name=name,
    )
    return tuple(run(*arguments))


def _compiler_params(warps: int) -> Any:
    from jax.experimental.pallas import triton  # deprecated, with a warning

    return triton.CompilerParams(num_warps=warps, num_stages=1)


def _padded(side: int) -> int:
    """The least power of two that is not below `side`, and at least 16."""
    return max(16, 1 << (side - 1).bit_length())


def _pad(arrays: Array, rows: int, columns: int) -> Array:
    *rest, m, n = arrays.shape
    none = [(0, 0)] * len(rest)
    return jnp.pad(arrays, (*none, (0, rows - m), (0, columns - n)))


def _read(reference: jax.Ref) -> Tiles:
    return tuple(reference[i] for i in range(reference.shape[0]))


def _gram_kernel(anchors: jax.Ref, gram: jax.Ref, square: jax.Ref) -> None:
    """``X^T X`` of the anchors, and its trace."""
    known = _read(anchors)
    gram[...] = tiles.gram_of(known)
    square[...] = jnp.sum(tiles.squares_of(known))


def _kernel(
    anchors: jax.Ref,
    free: jax.Ref,
    vectors: jax.Ref,
    unit: jax.Ref,
    result: jax.Ref,
    rounds: jax.Ref,
    change: jax.Ref,
    *,
    config: SPLICConfig,
    shape: tuple[int, int],
    rank: int,
    whole: bool,
) -> None:
    """`tiles.run`, from the first four references into the others."""

    def restore(descended: Tiles) -> Tiles:
        # Read again each time: registers are scarcer than what the cache holds.
        return tuple(anchors[i] + free[i] * tile for i, tile in enumerate(descended))

    x, rounds[...], change[...] = tiles.run(
        _read(anchors),
        restore,
        vectors[...],
        unit[...],
        config,
        shape=shape,
        rank=rank,
        whole=whole,
    )
    for i, tile in enumerate(x):
        result[i] = tile
