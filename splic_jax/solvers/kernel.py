"""The kernel solver: the whole completion of a small matrix in one GPU program.

The matrix stays on the chip: a program reads the anchors, the mask of the targets and a
first basis, runs rounds until its own matrix has converged, and writes the result. The
singular vectors are tracked as in `splic_jax.solvers.tracked`, whose elementwise
functions and constants are used here on tiles (`splic_jax.layout.tiles`).

The basis comes from an eigendecomposition of ``X^T X`` by the GPU's library. That
product is computed by one program per matrix too, so that the order of its sums does
not depend on the batch.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splic_jax.config import SPLICConfig
from splic_jax.layout import tiles
from splic_jax.layout.programs import pad, padded_side, read, run_each
from splic_jax.layout.tiles import Tiles
from splic_jax.objective.total_variation_gradient import difference_matrix
from splic_jax.solvers import algorithm1, spectrum, stopping, tracked
from splic_jax.solvers.algorithm1 import Completion, Problem
from splic_jax.solvers.stopping import Rule

_EPSILON = float(jnp.finfo(jnp.float32).eps)

_LARGEST_SIDE = 32
_MOST_BLOCKS = 4
# The fastest of 1, 2, 4 and 8 warps on an H200, for one image and for three side by
# side; float32 is faster than three products in TF32, as tiles are small and each
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
    """Whether `complete_fused` supports matrices of this shape with these settings.

    It does not support what the tracked solver does not (double precision, the exact
    solver, no rank cut, sides below 16), a TV over several scales, an image with a side
    above 32, or more than 4 of them side by side.
    """
    one_scale = config.tv_scales == 1 or config.tv_weight == 0
    height, width = shape
    wide = blocks == 1 or (height <= width and blocks <= _MOST_BLOCKS)
    return (
        tracked.supports(config, shape, dtype)
        and one_scale
        and wide
        and max(height, width // blocks) <= _LARGEST_SIDE
    )


def is_wanted(config: SPLICConfig) -> bool:
    """Whether the settings ask for the kernel and JAX's default device is a GPU."""
    return config.solver == "fast" and jax.default_backend() == "gpu"


def complete_by_kernel(
    config: SPLICConfig, blocks: int, rule: Rule, interpret: bool
) -> Callable[[Array, Array], Array]:
    """``(matrices, masks) -> matrices``, with a derivative in reverse mode.

    It is that of the tracked solver, for as many rounds as the kernel took.
    """
    solver = tracked.Tracked(config, blocks)
    run = functools.partial(
        complete_fused, config=config, blocks=blocks, rule=rule, interpret=interpret
    )

    @jax.custom_vjp
    def completed(matrices: Array, masks: Array) -> Array:
        return run(matrices, masks).matrix

    def forward(matrices: Array, masks: Array) -> tuple[Array, Any]:
        done = run(matrices, masks)
        return done.matrix, (matrices, masks, done.steps // config.inner_steps)

    def backward(residuals: tuple[Array, Array, Array], cotangent: Array) -> Any:
        again = rule._replace(unfinished=stopping.every_round)

        def pull(matrix: Array, mask: Array, rounds: Array, of: Array) -> Array:
            def complete(matrix: Array) -> Array:
                done: Array = algorithm1.complete(
                    solver, (matrix, mask), rule=again, rounds=rounds
                )[0]
                return done

            pulled: Array = jax.vjp(complete, matrix)[1](of)[0]
            return pulled

        return jax.vmap(pull)(*residuals, cotangent), None

    completed.defvjp(forward, backward)
    return completed


def complete_fused(
    matrices: Float[Array, "b m n"],
    masks: Bool[Array, "b m n"],
    config: SPLICConfig = SPLICConfig(),
    *,
    blocks: int = 1,
    rule: Rule = stopping.PRINTED,
    warps: int | None = None,
    products: str | None = None,
    interpret: bool = False,
) -> Completion:
    """`jax.vmap(splic_jax.complete)` of the tracked solver, one GPU program per matrix.

    For a 32 x 32 matrix at rank 8 a program reads 10 KB and writes 4 KB. Between steps
    it holds 14 KB in float32: the iterate and the difference matrices of rows and
    columns (4 KB each), and the basis V (2 KB); within a step also X V (2 KB), three
    16 x 16 matrices (1 KB each) and the factors of a product. The anchors and the
    target mask are read again in each step, from the nearest cache. A step takes
    0.5 to 1 MFLOP, with one to three corrections.

    Not differentiable by itself: see `complete_by_kernel`.

    Args:
        matrices: pixel values.
        masks: True at the anchors. Each matrix needs at least one, and finite values
            there; neither is checked.
        config, blocks: as in `splic_jax.complete`.
        rule: when to stop.
        warps: of a program; None for the fastest.
        products: of `tiles.PRODUCTS`; None for the fastest.
        interpret: run the kernel without compiling it, on any device, for tests.

    Returns:
        A `Completion` of arrays with a leading axis b, without trace.

    Raises:
        ValueError: for what `supports` rejects, or a rank above min(m, n).
    """
    if matrices.ndim != 3 or matrices.shape != masks.shape:
        raise ValueError(
            "matrices and masks must be [b, m, n] of the same shape, got "
            f"{matrices.shape} and {masks.shape}"
        )
    if not supports(config, matrices.shape[1:], matrices.dtype, blocks=blocks):
        raise ValueError(
            f"the fused kernel does not support {matrices.dtype} matrices of shape "
            f"{matrices.shape[1:]} with {config}; use splic_jax.complete"
        )
    run = functools.partial(
        run_each,
        products=products or _PRODUCTS,
        warps=warps or _WARPS,
        interpret=interpret,
    )
    count, m, n = matrices.shape
    rank = config.rank_of((m, n))
    # Tiles are tall: right singular vectors are tracked, along the smaller side.
    wide = m < n
    side = min(m, n)
    shape = max(m, n) // blocks, side
    padded = padded_side(shape[0]), padded_side(side)

    def to_tiles(arrays: Array) -> Array:
        tall = jnp.swapaxes(arrays, 1, 2) if wide else arrays
        return pad(tall.reshape(count, blocks, *shape), *padded)

    anchors = jnp.where(masks, matrices, 0) * config.pixel_scale
    kept = to_tiles(anchors)
    gram, square = run(
        _gram_kernel, [kept], [padded[1:] * 2, ()], [kept.dtype] * 2, name="splic_gram"
    )
    unit = tracked.power_of_two(jnp.sqrt(square))
    gram = gram[:, :side, :side] / unit[:, None, None] / unit[:, None, None]
    vectors = jax.vmap(tracked.eigenvectors)(gram)
    size = tracked.basis_size(rank, side)
    x, rounds, change = run(
        functools.partial(
            _kernel,
            config=config,
            shape=shape,
            rank=rank,
            whole=size == side,
            rule=rule,
        ),
        [
            kept / unit[:, None, None, None],
            to_tiles(1 - masks.astype(matrices.dtype)),
            pad(vectors[:, :, :size], padded[1], padded_side(size)),
            unit,
        ],
        [kept.shape[1:], (), ()],
        [matrices.dtype, jnp.int32, matrices.dtype],
        name="splic",
    )
    x = x[:, :, : shape[0], :side].reshape(count, -1, side)
    x = jnp.swapaxes(x, 1, 2) if wide else x
    scale = (unit / config.pixel_scale)[:, None, None]
    return Completion(
        matrix=jnp.where(masks, matrices, x * scale),
        steps=rounds * config.inner_steps,
        relative_change=change,
        converged=change <= config.tolerance,
    )


def _gram_kernel(anchors: jax.Ref, gram: jax.Ref, square: jax.Ref) -> None:
    """``X^T X`` of the anchors, and its trace."""
    known = read(anchors)
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
    rule: Rule,
) -> None:
    """Algorithm 1; reads the first four references and writes the others."""
    differences = [
        difference_matrix(side, config.tv_form, padded)
        for side, padded in zip(shape, anchors.shape[1:], strict=True)
    ]
    solver = Kernel(config, rank, whole, differences, result)
    given = References(anchors, free, vectors, unit)
    _, state = algorithm1.complete(solver, given, rule=rule, differentiable=False)
    rounds[...], change[...] = state.progress.round, state.progress.change


@dataclass(frozen=True)
class References:
    """The inputs of a program: a `Problem` that is read from memory at each use.

    The nearest cache holds it, and registers are scarce.
    """

    anchors_at: jax.Ref
    free_at: jax.Ref
    vectors_at: jax.Ref
    unit_at: jax.Ref

    @property
    def anchors(self) -> Tiles:
        """The anchors, zero elsewhere."""
        return read(self.anchors_at)

    @property
    def free(self) -> Tiles:
        """1 at the targets, 0 at the anchors."""
        return read(self.free_at)

    @property
    def unit(self) -> Array:
        """See `Problem`."""
        unit: Array = self.unit_at[...]
        return unit


@dataclass(frozen=True)
class Kernel:
    """A `Solver` of one matrix in tiles, held by a single program.

    Attributes:
        config: the settings.
        rank: r.
        whole: whether the vectors span the whole space.
        differences: `difference_matrix` of the rows and of the columns of a tile.
        result: where the completed matrix is written; None for single steps.
    """

    config: SPLICConfig
    rank: int
    whole: bool
    differences: list[Array]
    result: jax.Ref | None

    def init(self, given: References) -> tuple[Problem, Array, Array]:
        """The problem, the given vectors, and the largest singular value."""
        vectors = given.vectors_at[...]
        squares = tiles.squares_of(tiles.times(given.anchors, vectors))
        return given, vectors, jnp.sqrt(jnp.max(squares))

    def step(
        self, x: Tiles, basis: Array, delta: Array, unit: Array
    ) -> tuple[Tiles, Array]:
        """Lines 4 to 11 of Algorithm 1; the TV gradient is ``D X + X D^T``."""
        config = self.config
        leading = follow(x, basis, delta, self.rank, self.whole)
        squares = tiles.squares_of(leading.xv)
        kept = tiles.largest_ones(squares, self.rank)
        delta = jnp.maximum(delta, _EPSILON * jnp.sqrt(jnp.max(squares)))
        relative = config.step_scaling == "relative"
        width = delta if relative else delta * unit
        gain = spectrum.gain(width, config.step_size, relative)
        weights = spectrum.descended_weights(kept, squares / delta**2, gain)
        parts = [tracked.times(tile, kept, weights) for tile in leading.xv]
        if not config.tv_weight:
            back = [tiles.dot_nt(descended, leading.vectors) for _, descended in parts]
            return tuple(back), leading.vectors
        rows, columns = self.differences
        tv_step = config.step_size * config.tv_weight
        across = tv_step * tiles.dot(columns, leading.vectors)
        smoothed = tuple(
            tiles.dot_nt(descended - tv_step * tiles.dot(rows, cut), leading.vectors)
            - tiles.dot_nt(cut, across)
            for cut, descended in parts
        )
        return smoothed, leading.vectors

    def finish(self, x: Tiles, given: References, unit: Array) -> None:
        """Writes the iterate, in its unit."""
        del given, unit
        assert self.result is not None
        for i, tile in enumerate(x):
            self.result[i] = tile

    def squared_norm(self, x: Tiles) -> Array:
        """The sum of squares."""
        return tiles.squared_norm(x)


class Leading(NamedTuple):
    """`tracked.Leading` with X V in tiles."""

    vectors: Array
    xv: Tiles


# The number of re-orthonormalizations, the vectors, and their defect.
_Mending = tuple[Array | int, Leading, Array]


def follow(x: Tiles, vectors: Array, delta: Array, rank: int, whole: bool) -> Leading:
    """`tracked.track`; `whole`: the vectors span the whole space."""
    leading = Leading(vectors, tiles.times(x, vectors))
    gram = tiles.gram_of(leading.xv)

    def correct(_: Array, carry: tuple[Leading, Array]) -> tuple[Leading, Array]:
        leading, gram = carry
        leading, gram = _turn_fully(leading, gram, rank)
        if not whole:
            leading = _leave_span(x, leading, gram)
        return leading, tiles.gram_of(leading.xv)

    wanted = _corrections(gram, delta, rank)
    leading, gram = jax.lax.fori_loop(0, wanted, correct, (leading, gram))
    return _settle(x, leading, gram, rank, whole)


def _corrections(gram: Array, delta: Array, rank: int) -> Array:
    values = tiles.diagonal(gram)
    kept = tiles.largest_ones(values, rank)
    last = jnp.min(jnp.where(kept > 0, values, jnp.inf))
    squares = tracked.jacobi_angles(gram, values, kept) ** 2
    turn = jnp.max(jnp.sum(squares, axis=0) * kept)
    return tracked.corrections(last, turn, delta)


def _angles(gram: Array, rank: int) -> Array:
    values = tiles.diagonal(gram)
    tangent = tracked.jacobi_angles(gram, values, tiles.largest_ones(values, rank))
    return tracked.limited(tangent, tiles.total(tangent**2))


def _rotate(leading: Leading, rotation: Array) -> Leading:
    vectors = tiles.dot(leading.vectors, rotation)
    return Leading(vectors, tiles.times(leading.xv, rotation))


def _rotation(t: Array) -> Array:
    t2 = tiles.dot(t, t)
    root = tiles.identity(t) + t2 / 2 + tiles.dot(t2, t2) * 0.375
    return root + tiles.dot(t, root)


def _turn_fully(leading: Leading, gram: Array, rank: int) -> tuple[Leading, Array]:
    rotation = _rotation(_angles(gram, rank))
    for _ in range(2):
        newton = 1.5 * tiles.identity(gram) - tiles.dot_tn(rotation, rotation) / 2
        rotation = tiles.dot(rotation, newton)
    return _rotate(leading, rotation), tiles.dot_tn(rotation, tiles.dot(gram, rotation))


def _leave_span(x: Tiles, leading: Leading, gram: Array) -> Leading:
    squares = tiles.diagonal(gram)
    step = tracked.first_order(_outside(x, leading, gram), _safe_inverse(squares))
    leading, defect = _mended(_move(x, leading, step, squares))
    return _orthonormal(leading, defect)


def _mended(leading: Leading) -> tuple[Leading, Array]:
    def far(carry: _Mending) -> Array:
        done, _, defect = carry
        square = tiles.total(defect**2) / len(defect)
        few = done < tracked.MOST_MENDING
        return few & (square > tracked.LARGEST_DEFECT**2)

    def mend(carry: _Mending) -> _Mending:
        done, leading, defect = carry
        return done + 1, *_mend(leading, defect, tiles.products.get())

    start: _Mending = (jnp.int32(0), leading, _defect(leading))
    _, leading, defect = jax.lax.while_loop(far, mend, start)
    return leading, defect


@functools.partial(jax.jit, static_argnums=2)
def _mend(leading: Leading, defect: Array, products: str) -> tuple[Leading, Array]:
    del products  # an argument so that each of `PRODUCTS` is traced
    leading = _orthonormal(leading, defect)
    return leading, _defect(leading)


def _orthonormal(leading: Leading, defect: Array) -> Leading:
    square = tiles.dot(defect, defect)
    root = tiles.identity(defect) + defect / 2 + square * 0.375
    return _rotate(leading, root + tiles.dot(square, defect) * 0.3125)


def _outside(x: Tiles, leading: Leading, gram: Array) -> Array:
    return tiles.transpose_times(x, leading.xv) - tiles.dot(leading.vectors, gram)


def _move(x: Tiles, leading: Leading, step: Array, squares: Array) -> Leading:
    xd = tiles.times(x, step)
    length, stretch = jnp.sum(step**2, axis=0), tiles.squares_of(xd)
    rest = stretch * _safe_inverse(squares) / jnp.where(length > 0, length, 1)
    scale = 1 / jnp.maximum(1 - rest, 0.3)
    norm = jnp.sqrt(jnp.sum(length * scale**2))
    scale *= jnp.minimum(1, tracked.LARGEST_ROTATION / jnp.maximum(norm, 1e-9))
    return Leading(
        tracked.moved(leading.vectors, step, scale),
        tuple(
            tracked.moved(xv, moved, scale)
            for xv, moved in zip(leading.xv, xd, strict=True)
        ),
    )


def _settle(x: Tiles, leading: Leading, gram: Array, rank: int, whole: bool) -> Leading:
    rotation = _rotation(_angles(gram, rank))
    turned = _rotate(leading, rotation)
    if not whole:
        squares = tiles.squares_of(turned.xv)
        step = tiles.dot(_outside(x, leading, gram), rotation) * _safe_inverse(squares)
        turned = _move(x, turned, step, squares)
    turned, defect = _mended(turned)
    gram = tiles.gram_of(turned.xv)
    t = _angles(tracked.of_orthonormal(gram, defect, tiles.diagonal(gram)), rank)
    both = t + defect / 2
    small = tiles.identity(t) + both + tiles.dot(both, both) / 2
    return _rotate(turned, small + tiles.dot(defect, defect) / 4)


def _defect(leading: Leading) -> Array:
    gram = tiles.dot_tn(leading.vectors, leading.vectors)
    # Padding columns are zero, and have no defect.
    return jnp.where(gram > 0, tiles.identity(gram), 0) - gram


def _safe_inverse(squares: Array) -> Array:
    return tracked.damped_inverse(squares, jnp.max(squares))
