"""One GPU program per matrix, written in Pallas for Triton.

Tiles have sides that are powers of two, at least 16. JAX 0.11 deprecates Pallas for
Triton; Mosaic for GPUs, or jax_triton, would replace `run_each`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from splic_jax.layout import tiles
from splic_jax.layout.tiles import Tiles


def run_each(
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
    """Runs a kernel on each matrix.

    Args:
        kernel: takes references to the arguments and the results of one matrix.
        arguments: arrays with the matrices along the leading axis.
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


def padded_side(side: int) -> int:
    """The smallest power of two that is at least `side` and at least 16."""
    return max(16, 1 << (side - 1).bit_length())


def pad(arrays: Array, rows: int, columns: int) -> Array:
    *rest, m, n = arrays.shape
    none = [(0, 0)] * len(rest)
    return jnp.pad(arrays, (*none, (0, rows - m), (0, columns - n)))


def read(reference: jax.Ref) -> Tiles:
    return tuple(reference[i] for i in range(reference.shape[0]))
