"""Nuclear-norm minimisation, as ME-Net applies it to images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from splic_jax.fields import config, require_integer, require_number
from splic_jax.solvers.iteration import iterate
from splic_jax.transforms.base import per_image
from splic_jax.transforms.completion.matrices import Masking, estimate
from splic_jax.transforms.completion.singular_values import largest, soft_threshold
from splic_jax.transforms.completion.singular_values import (
    nuclear_norm as nuclear_norm_of,
)

# Steps between two tests of the accuracy, which cost about as much as a step each.
_STEPS_A_ROUND = 10

# On accelerators: the gap has fallen if it is below this share of the least one so far.
# If it has not for at least this many tests, it may have stalled.
_FALLEN, _PATIENCE = 0.9, 3


@config
class NuclearNormConfig(Masking):
    """Settings of `nuclear_norm`; `keep_probability` and `weight` are ME-Net's.

    Attributes, beside those of `Masking`:
        weight: mu of the nuclear norm, for pixels in [-1, 1]; > 0.
        tolerance: the duality gap at which the solver stops, relative to the objective;
            it bounds the distance from the minimum; >= 0. Rounding may keep the gap
            above it, see `nuclear_norm_matrix`.
        max_steps: steps of the solver, rounded up to a multiple of 10; >= 1.

    Raises:
        ValueError: for a value that makes no sense, naming the field.
    """

    weight: float = 1.0
    tolerance: float = 1e-4
    max_steps: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "weight", "(0, inf)")
        require_number(self, "tolerance", "[0, inf)")
        require_integer(self, "max_steps")


class NuclearNormResult(NamedTuple):
    """What the solver returns.

    Attributes:
        matrix: the estimate.
        objective: its value of ``mu ||X||_* + ||M * (X - A)||_F^2``.
        gap: upper bound of the objective's distance from its minimum; above
            ``tolerance * objective`` where the solver did not converge.
    """

    matrix: Float[Array, "m n"]
    objective: Float[Array, ""]
    gap: Float[Array, ""]


class _Fall(NamedTuple):
    """How the gap falls; numbers of tests, in the dtype of the gap."""

    least: Array
    least_at: Array
    tests: Array

    def after(self, gap: Array) -> "_Fall":
        tests, fallen = self.tests + 1, gap < _FALLEN * self.least
        least = jnp.where(fallen, gap, self.least)
        return _Fall(least, jnp.where(fallen, tests, self.least_at), tests)

    def stalled(self) -> Array:
        return self.tests - self.least_at >= jnp.maximum(self.least_at, _PATIENCE)


class _State(NamedTuple):
    x: Array
    ahead: Array  # extrapolated from the last two
    momentum: Array  # t of FISTA
    objective: Array
    gap: Array
    fall: _Fall | None  # on accelerators


_Iterates = tuple[Array, Array, Array]  # the first three of `_State`


def nuclear_norm_matrix(
    matrix: Float[Array | np.ndarray, "m n"],
    mask: Bool[Array | np.ndarray, "m n"],
    config: NuclearNormConfig,
) -> NuclearNormResult:
    r"""Minimises a nuclear norm plus the squared error at the observed entries.

    .. math:: \mu \|X\|_* + \|M \odot (X - A)\|_F^2

    Accelerated proximal gradient steps (FISTA), whose momentum restarts when it points
    uphill. Stops by the duality gap, which bounds the distance to the minimum: with
    ``Y = 2 M * (A - X)``, scaled down to a spectral norm of at most mu, the dual value
    is ``<Y, A> - ||Y||_F^2 / 4``.

    Rounding keeps the gap above ``min(m, n) eps ||X||_F^2`` or so: in float32 and with
    the default weight, 1e-5 of the objective for most images, up to 1e-3 for a few
    bright or dark ones, which run all `max_steps` on a CPU. On an accelerator one such
    image would keep a whole batch waiting: there the solver also stops when the gap has
    not fallen by a tenth in as many steps as it took to get there, and in 30 at least.
    Further steps, up to 500, then lowered the objective by less than 1e-5 of it, for
    weights of 0.02 to 5 and 10 to 90 % of the entries.

    Args:
        matrix: A, values around 0; ME-Net's are in [-1, 1].
        mask: M, True where the entry is observed.
        config: `weight`, `tolerance` and `max_steps`.

    Returns:
        A `NuclearNormResult`; the matrix, not clipped, is differentiable in reverse
        mode.

    References:
        Candes and Recht 2009, "Exact matrix completion via convex optimization"; Toh
        and Yun 2010, "An accelerated proximal gradient algorithm for nuclear norm
        regularized least squares problems"; O'Donoghue and Candes 2015, "Adaptive
        restart for accelerated gradient schemes" (the gradient scheme).
    """
    observed = jnp.where(mask, matrix, 0)
    infinite = jnp.full((), jnp.inf, matrix.dtype)
    one = jnp.ones((), matrix.dtype)

    def unfinished(state: _State) -> Array:
        above = state.gap > config.tolerance * state.objective
        return above if state.fall is None else above & ~state.fall.stalled()

    def one_step(carry: _Iterates, problem: tuple[Array, Array]) -> _Iterates:
        x, ahead, momentum = carry
        observed, mask = problem
        # The squared error's gradient has the Lipschitz constant 2: a step of 1/2.
        filled = jnp.where(mask, observed, ahead)
        new = soft_threshold(filled, config.weight / 2)
        uphill = jnp.sum((ahead - new) * (new - x)) > 0
        momentum = jnp.where(uphill, 1, momentum)
        grown = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        return new, new + (momentum - 1) / grown * (new - x), grown

    def one_round(state: _State, problem: tuple[Array, Array]) -> _State:
        carry = (state.x, state.ahead, state.momentum)
        carry, _ = jax.lax.scan(
            lambda carry, _: (one_step(carry, problem), None),
            carry,
            length=_STEPS_A_ROUND,
        )
        x, (observed, mask) = jax.lax.stop_gradient(carry[0]), problem
        objective, gap = _objective_and_gap(x, observed, mask, config)
        fall = None if state.fall is None else state.fall.after(gap)
        return _State(*carry, objective, gap, fall)

    zero = jnp.zeros_like(infinite)
    # Not on a CPU, whose results stay as they were, to the bit.
    fall = None if jax.default_backend() == "cpu" else _Fall(infinite, zero, zero)
    start = _State(observed, observed, one, zero, infinite, fall)
    rounds = -(-config.max_steps // _STEPS_A_ROUND)
    done = iterate(one_round, unfinished, start, (observed, mask), rounds)
    return NuclearNormResult(done.x, done.objective, done.gap)


def _objective_and_gap(
    x: Array, observed: Array, mask: Array, config: NuclearNormConfig
) -> tuple[Array, Array]:
    error = jnp.where(mask, jax.lax.stop_gradient(observed) - x, 0)
    squares = jnp.sum(error**2)
    nuclear = config.weight * nuclear_norm_of(x)
    # The objective less the dual value, rearranged so that less cancels.
    scale = config.weight / jnp.maximum(largest(2 * error), config.weight)
    gap = nuclear - 2 * scale * jnp.sum(error * x) + (1 - scale) ** 2 * squares
    return nuclear + squares, gap


def nuclear_norm_one(
    image: Float[Array, "h w c"], key: PRNGKeyArray, config: NuclearNormConfig
) -> Float[Array, "h w c"]:
    """Estimates an image from a random part of its pixels by `nuclear_norm_matrix`.

    Range, key, attack and source are those of `usvt_one`; differentiable in reverse
    mode.
    """
    run = nuclear_norm_matrix
    return estimate(image, key, config, lambda x, m: run(x, m, config).matrix)


nuclear_norm = per_image(nuclear_norm_one)
