"""The whole completion of a small matrix in one GPU kernel, its state on the chip.

One program of the grid completes one matrix: it reads the anchors, the places to fill
in, a basis and delta to start from, runs round after round until its own matrix has
converged, and writes the result. The method is that of `splic_jax.tracked`, whose
elementwise functions and constants serve here too; sums are restated, since those of
`splic_jax.small` take an array apart and a kernel cannot, and so is what takes them.

A matrix is held as tiles, one above the other: one, or as many as images stand side by
side in it (channels that were concatenated). Triton wants sides that are powers of two,
at least 16, so tiles are padded with zeros: rows and columns of zeros stay zero through
every product, carry no singular value, and count as no pixel's neighbour, so that only
the order of sums may change.
"""

import contextvars
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

from splic_jax import completion, tracked
from splic_jax.config import SPLICConfig

_LARGEST_SIDE = 32
_MOST_BLOCKS = 4
_EPSILON = float(jnp.finfo(jnp.float32).eps)
# Of 1, 2, 4 and 8 warps the fastest on an H200, for one image and three side by side.
_WARPS = 4
# How the kernel multiplies matrices: in float32, or on the tensor cores, each factor as
# a sum of two in TF32, which leaves out 2^-22 of a product. The first is the faster, as
# the tiles are small and each factor has to be split.
PRODUCTS: dict[str, jax.lax.PrecisionLike] = {
    "float32": jax.lax.Precision.HIGHEST,
    "3 x tf32": jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
}
_PRODUCTS = "float32"
_products = contextvars.ContextVar("products", default=_PRODUCTS)


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


def complete_batch(
    matrices: Float[Array, "b m n"],
    masks: Bool[Array, "b m n"],
    config: SPLICConfig = SPLICConfig(),
    *,
    rounds: int | None = None,
    blocks: int = 1,
) -> Float[Array, "b m n"]:
    """`splic_jax.completion.complete_batch`, by the kernel where `config` says so.

    That is with ``solver="fused"`` on a GPU and ``"interpreted"`` on any device. What
    the kernel does not take, `rounds` among it, is done without.
    """
    interpret = config.solver == "interpreted"
    wanted = config.solver == "fused" and jax.default_backend() == "gpu"
    taken = supports(config, matrices.shape[1:], matrices.dtype, blocks=blocks)
    if not ((wanted or interpret) and rounds is None and taken):
        return completion.complete_batch(
            matrices, masks, config, rounds=rounds, blocks=blocks
        )

    def one_pass(matrices: Array, masks: Array) -> Array:
        return complete_fused(
            matrices, masks, config, blocks=blocks, interpret=interpret
        ).matrix

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
    it holds 22 KB in float32: the iterate, the anchors, the places to fill in, and the
    differences of rows and of columns (4 KB each), and the basis (2 KB); within one
    also the basis' images (2 KB), three 16 x 16 matrices (1 KB each) and the factors of
    a product. A step takes between half a MFLOP and one, as it makes one correction or
    three.

    Not differentiable: see `splic_jax.complete_rounds`.

    Args:
        matrices: pixel values.
        masks: True at the anchors, of which each matrix needs some: this is not
            checked, nor that they are finite.
        config, blocks: as in `splic_jax.complete`.
        warps: of a program; None for what was the fastest.
        products: of `PRODUCTS`; None for what was the fastest.
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
    count, m, n = matrices.shape
    problem, start = jax.vmap(
        lambda matrix, mask: completion._start(matrix, mask, config)
    )(matrices, masks)
    warps = warps or _WARPS
    vectors = start.vectors
    assert vectors is not None  # as the fast solver tracks some
    # A tile has a row for each entry of the singular vectors that are not tracked.
    tracked_side = vectors.shape[1]
    wide = m < n
    tiles = (count, blocks, (n if wide else m) // blocks, tracked_side)
    sides = _padded(tiles[2]), _padded(tracked_side), _padded(vectors.shape[2])

    def pad(arrays: Array, rows: int, columns: int) -> Array:
        *rest, m, n = arrays.shape
        none = [(0, 0)] * len(rest)
        return jnp.pad(arrays, (*none, (0, rows - m), (0, columns - n)))

    def to_tiles(arrays: Array) -> Array:
        tall = jnp.swapaxes(arrays, 1, 2) if wide else arrays
        return pad(tall.reshape(tiles), *sides[:2])

    def block(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *shape), lambda i: (i, *(0 for _ in shape)))

    x, steps, change = pl.pallas_call(
        functools.partial(
            _kernel,
            config=config,
            products=products or _PRODUCTS,
            shape=tiles[2:],
            rank=config.rank_of((m, n)),
            whole=vectors.shape[2] == tracked_side,
        ),
        grid=(count,),
        in_specs=[
            block(blocks, *sides[:2]),
            block(blocks, *sides[:2]),
            block(*sides[1:]),
            block(),
            block(),
        ],
        out_specs=[block(blocks, *sides[:2]), block(), block()],
        out_shape=[
            jax.ShapeDtypeStruct((count, blocks, *sides[:2]), matrices.dtype),
            jax.ShapeDtypeStruct((count,), jnp.int32),
            jax.ShapeDtypeStruct((count,), matrices.dtype),
        ],
        interpret=interpret,
        compiler_params=None if interpret else _compiler_params(warps),
        name="splic",
    )(
        to_tiles(problem.anchors),
        to_tiles(1 - problem.mask),
        pad(vectors, *sides[1:]),
        start.delta,
        problem.unit,
    )
    x = x[:, :, : tiles[2], :tracked_side].reshape(count, -1, tracked_side)
    x = jnp.swapaxes(x, 1, 2) if wide else x
    finish = functools.partial(completion._finish, config=config)
    return completion.Completion(
        matrix=jax.vmap(finish)(x, matrices, problem),
        steps=steps,
        relative_change=change,
        converged=change <= config.tolerance,
    )


def _compiler_params(warps: int) -> Any:
    # Here, since JAX 0.11 announces that it will go; jax_triton is to take its place.
    from jax.experimental.pallas import triton

    return triton.CompilerParams(num_warps=warps, num_stages=1)


def _padded(side: int) -> int:
    """The least power of two that is not below `side`, and at least 16."""
    return max(16, 1 << (side - 1).bit_length())


# A matrix, or the images of vectors: tiles, one above the other.
_Tiles = tuple[Array, ...]


class _Leading(NamedTuple):
    """`tracked.Leading` with its images as tiles."""

    vectors: Array
    images: _Tiles


# How many times columns were mended, they, and their defect.
_Mending = tuple[Array | int, _Leading, Array]
# Rounds done, the iterate, its basis, delta, and the relative change of the last step.
_State = tuple[Array | int, _Tiles, Array, Array, Array]
# The iterate before a step, the one after it, and its basis.
_Step = tuple[_Tiles, _Tiles, Array]


def _kernel(
    anchors: jax.Ref,
    free: jax.Ref,
    vectors: jax.Ref,
    delta: jax.Ref,
    unit: jax.Ref,
    result: jax.Ref,
    steps: jax.Ref,
    change: jax.Ref,
    *,
    config: SPLICConfig,
    products: str,
    shape: tuple[int, int],
    rank: int,
    whole: bool,
) -> None:
    """Algorithm 1 for one matrix, from the first five references into the others.

    `shape` is that of a tile without its padding.
    """
    token = _products.set(products)
    try:
        _complete(
            anchors,
            free,
            vectors,
            delta,
            unit,
            result,
            steps,
            change,
            config=config,
            shape=shape,
            rank=rank,
            whole=whole,
        )
    finally:
        _products.reset(token)


def _complete(
    anchors: jax.Ref,
    free: jax.Ref,
    vectors: jax.Ref,
    delta: jax.Ref,
    unit: jax.Ref,
    result: jax.Ref,
    steps: jax.Ref,
    change: jax.Ref,
    *,
    config: SPLICConfig,
    shape: tuple[int, int],
    rank: int,
    whole: bool,
) -> None:
    blocks = range(anchors.shape[0])
    scale = unit[...]
    differences = [
        _differences(padded, side, config.tv_form)
        for padded, side in zip(anchors.shape[1:], shape, strict=True)
    ]
    smallest = completion._smallest_delta(anchors.dtype)

    def unfinished(state: _State) -> Array:
        done, *_, changed = state
        return (done < config.max_rounds) & (changed > config.tolerance)

    def advance(state: _State) -> _State:
        done, x, vectors, delta, _ = state

        def step(_: Array, carry: _Step) -> _Step:
            x, vectors = carry[1:]
            now = _follow(x, vectors, delta, rank, whole)
            descended = _descend(now, delta, scale, differences, rank, config)
            # Read again each time: registers are scarcer than what the cache holds.
            new = tuple(anchors[i] + free[i] * descended[i] for i in blocks)
            return x, new, now.vectors

        old, x, vectors = jax.lax.fori_loop(
            0, config.inner_steps, step, (x, x, vectors)
        )
        delta = jnp.maximum(delta * config.delta_decay, smallest)
        return done + 1, x, vectors, delta, _relative_change(old, x)

    known = tuple(anchors[i] for i in blocks)
    start: _State = (0, known, vectors[...], delta[...], jnp.float32(jnp.inf))
    done, x, _, _, changed = jax.lax.while_loop(unfinished, advance, start)
    for i in blocks:
        result[i] = x[i]
    steps[...] = done * config.inner_steps
    change[...] = changed


def _dot(a: Array, b: Array, *, contract: tuple[int, int] = (1, 0)) -> Array:
    dimensions = (contract[:1], contract[1:]), ((), ())
    precision = PRODUCTS[_products.get()]
    return jax.lax.dot_general(a, b, dimensions, precision=precision)


_dot_tn = functools.partial(_dot, contract=(0, 0))
_dot_nt = functools.partial(_dot, contract=(1, 1))


def _indices(size: int) -> tuple[Array, Array]:
    i, j = (jax.lax.broadcasted_iota(jnp.int32, (size, size), k) for k in (0, 1))
    return i, j


def _differences(padded: int, side: int, form: str) -> Array:
    """D, with which the gradient of the total variation is ``D X + X D^T``."""
    i, j = _indices(padded)
    neighbours = (j == i + 1) & (j < side)
    if form == "exact":
        neighbours |= (i == j + 1) & (i < side)
    neighbours = neighbours.astype(jnp.float32)
    return jnp.where(i == j, jnp.sum(neighbours, axis=1)[:, None], 0) - neighbours


def _total(a: Array) -> Array:
    return jnp.sum(jnp.sum(a, axis=0))


def _images(x: _Tiles, vectors: Array) -> _Tiles:
    return tuple(_dot(tile, vectors) for tile in x)


def _pulled(x: _Tiles, images: _Tiles) -> Array:
    """X^T times the images."""
    products = [_dot_tn(tile, of) for tile, of in zip(x, images, strict=True)]
    return functools.reduce(jnp.add, products)


def _gram(images: _Tiles) -> Array:
    return _pulled(images, images)


def _squares(images: _Tiles) -> Array:
    """Squared lengths of the columns."""
    return functools.reduce(jnp.add, [jnp.sum(tile**2, axis=0) for tile in images])


def _diagonal(a: Array) -> Array:
    i, j = _indices(a.shape[0])
    return jnp.sum(jnp.where(i == j, a, 0), axis=0)


def _largest_ones(values: Array, rank: int) -> Array:
    i, j = _indices(values.shape[0])
    first, second = values[:, None], values[None, :]
    before = (first > second) | ((first == second) & (i < j))
    return (jnp.sum(before.astype(values.dtype), axis=0) < rank).astype(values.dtype)


def _follow(
    x: _Tiles, vectors: Array, delta: Array, rank: int, whole: bool
) -> _Leading:
    """`tracked.track`; `whole` says that there is nothing outside of the span."""
    now = _Leading(vectors, _images(x, vectors))
    gram = _gram(now.images)

    def correct(_: Array, carry: tuple[_Leading, Array]) -> tuple[_Leading, Array]:
        now, gram = carry
        now, gram = _turn_fully(now, gram, rank)
        if not whole:
            now = _leave_span(x, now, gram)
        return now, _gram(now.images)

    wanted = _corrections(gram, delta, rank)
    now, gram = jax.lax.fori_loop(0, wanted, correct, (now, gram))
    return _settle(x, now, gram, rank, whole)


def _corrections(gram: Array, delta: Array, rank: int) -> Array:
    values = _diagonal(gram)
    kept = _largest_ones(values, rank)
    last = jnp.min(jnp.where(kept > 0, values, jnp.inf))
    squares = tracked._jacobi_angles(gram, values, kept) ** 2
    turn = jnp.max(jnp.sum(squares, axis=0) * kept)
    ratio = delta**2 / jnp.where(last > 0, last, 1)
    many = (ratio > tracked._DELTA_OF_MANY**2) | (turn > tracked._ANGLE_OF_MANY**2)
    some = (ratio > tracked._DELTA_OF_SOME**2) | (turn > tracked._ANGLE_OF_SOME**2)
    # Triton takes untyped numbers for those of the type of the condition.
    counts = (tracked._NONE, tracked._SOME, tracked._MANY)
    none, some_of_them, many_of_them = map(jnp.int32, counts)
    wanted = jnp.where(many, many_of_them, jnp.where(some, some_of_them, none))
    return jnp.where(last > 0, wanted, none)


def _angles(gram: Array, rank: int) -> Array:
    values = _diagonal(gram)
    tangent = tracked._jacobi_angles(gram, values, _largest_ones(values, rank))
    return tracked._limited(tangent, _total(tangent**2))


def _rotate(now: _Leading, rotation: Array) -> _Leading:
    return _Leading(_dot(now.vectors, rotation), _images(now.images, rotation))


def _rotation(t: Array) -> Array:
    t2 = _dot(t, t)
    root = _identity(t) + t2 / 2 + _dot(t2, t2) * 0.375
    return root + _dot(t, root)


def _turn_fully(now: _Leading, gram: Array, rank: int) -> tuple[_Leading, Array]:
    rotation = _rotation(_angles(gram, rank))
    for _ in range(2):
        newton = 1.5 * _identity(gram) - _dot_tn(rotation, rotation) / 2
        rotation = _dot(rotation, newton)
    return _rotate(now, rotation), _dot_tn(rotation, _dot(gram, rotation))


def _leave_span(x: _Tiles, now: _Leading, gram: Array) -> _Leading:
    squares = _diagonal(gram)
    step = tracked._first_order(_outside(x, now, gram), _safe_inverse(squares))
    now, defect = _mended(_move(x, now, step, squares))
    return _orthonormal(now, defect)


def _mended(now: _Leading) -> tuple[_Leading, Array]:
    def far(carry: _Mending) -> Array:
        done, _, defect = carry
        square = _total(defect**2) / len(defect)
        few = done < tracked._MOST_MENDING
        return few & (square > tracked._LARGEST_DEFECT**2)

    def mend(carry: _Mending) -> _Mending:
        done, now, defect = carry
        return done + 1, *_mend(now, defect, _products.get())

    start: _Mending = (jnp.int32(0), now, _defect(now))
    _, now, defect = jax.lax.while_loop(far, mend, start)
    return now, defect


@functools.partial(jax.jit, static_argnums=2)
def _mend(now: _Leading, defect: Array, products: str) -> tuple[_Leading, Array]:
    del products  # traced anew for each
    now = _orthonormal(now, defect)
    return now, _defect(now)


def _orthonormal(now: _Leading, defect: Array) -> _Leading:
    square = _dot(defect, defect)
    root = _identity(defect) + defect / 2 + square * 0.375
    return _rotate(now, root + _dot(square, defect) * 0.3125)


def _outside(x: _Tiles, now: _Leading, gram: Array) -> Array:
    return _pulled(x, now.images) - _dot(now.vectors, gram)


def _move(x: _Tiles, now: _Leading, step: Array, squares: Array) -> _Leading:
    images = _images(x, step)
    length, stretch = jnp.sum(step**2, axis=0), _squares(images)
    rest = stretch * _safe_inverse(squares) / jnp.where(length > 0, length, 1)
    scale = 1 / jnp.maximum(1 - rest, 0.3)
    norm = jnp.sqrt(jnp.sum(length * scale**2))
    scale *= jnp.minimum(1, tracked._LARGEST_ROTATION / jnp.maximum(norm, 1e-9))
    return _Leading(
        tracked._moved(now.vectors, step, scale),
        tuple(
            tracked._moved(tile, image, scale)
            for tile, image in zip(now.images, images, strict=True)
        ),
    )


def _settle(x: _Tiles, now: _Leading, gram: Array, rank: int, whole: bool) -> _Leading:
    rotation = _rotation(_angles(gram, rank))
    turned = _rotate(now, rotation)
    if not whole:
        squares = _squares(turned.images)
        step = _dot(_outside(x, now, gram), rotation) * _safe_inverse(squares)
        turned = _move(x, turned, step, squares)
    turned, defect = _mended(turned)
    gram = _gram(turned.images)
    t = _angles(tracked._of_orthonormal(gram, defect, _diagonal(gram)), rank)
    both = t + defect / 2
    small = _identity(t) + both + _dot(both, both) / 2 + _dot(defect, defect) / 4
    return _rotate(turned, small)


def _identity(a: Array) -> Array:
    i, j = _indices(a.shape[0])
    return (i == j).astype(a.dtype)


def _defect(now: _Leading) -> Array:
    gram = _dot_tn(now.vectors, now.vectors)
    # Columns that only fill up have no length to be missed.
    return jnp.where(gram > 0, _identity(gram), 0) - gram


def _safe_inverse(squares: Array) -> Array:
    least = tracked._ROUNDINGS * _EPSILON * jnp.max(squares)
    return squares / jnp.where(least > 0, squares**2 + least**2, 1)


def _descend(
    now: _Leading,
    delta: Array,
    unit: Array,
    differences: list[Array],
    rank: int,
    config: SPLICConfig,
) -> _Tiles:
    """Lines 5 to 11 of Algorithm 1; the total variation's part by factors."""
    squares = _squares(now.images)
    kept = _largest_ones(squares, rank)
    delta = jnp.maximum(delta, _EPSILON * jnp.sqrt(jnp.max(squares)))
    relative = config.step_scaling == "relative"
    gain = config.step_size if relative else config.step_size / (delta * unit) ** 2
    weights = kept * (1 - gain * jnp.exp(-squares / delta**2 / 2))
    parts = [tracked._times(tile, kept, weights) for tile in now.images]
    if not config.tv_weight:
        return tuple(_dot_nt(descended, now.vectors) for _, descended in parts)
    rows, columns = differences
    tv_step = config.step_size * config.tv_weight
    across = tv_step * _dot(columns, now.vectors)
    return tuple(
        _dot_nt(descended - tv_step * _dot(rows, cut), now.vectors)
        - _dot_nt(cut, across)
        for cut, descended in parts
    )


def _relative_change(x: _Tiles, new: _Tiles) -> Array:
    pairs = list(zip(x, new, strict=True))
    moved = functools.reduce(jnp.add, [_total((b - a) ** 2) for a, b in pairs])
    size = functools.reduce(jnp.add, [_total(a**2) for a, _ in pairs])
    return jnp.sqrt(jnp.where(size > 0, moved / jnp.where(size > 0, size, 1), moved))
