"""Algorithm 1 of the paper: the loop, its step, and both passes.

A `Solver` finds the singular vectors; the algorithm is the same for all solvers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from splic_jax.config import SPLICConfig
from splic_jax.solvers import stopping
from splic_jax.solvers.iteration import iterate
from splic_jax.solvers.stopping import Progress, Rule

# Name of the residuals that a step keeps for its derivative beside its iterate: the
# singular vectors, so that nothing is decomposed or tracked again.
VECTORS = "splic_vectors"

# With sides up to this the derivative stores the iterate of each step; of larger
# matrices that of each round, whose steps it computes again.
_LARGEST_KEPT = 64

# An iterate in a solver's layout: an array, or tiles.
Iterate = Any
# What a solver carries from step to step, such as singular vectors; None if nothing.
Basis = Any


@runtime_checkable
class Problem(Protocol):
    """A matrix to complete.

    Attributes:
        anchors: M * X, in units of `unit`.
        free: 1 - M.
        unit: the number that the solver divided the pixels by.
    """

    @property
    def anchors(self) -> Iterate: ...

    @property
    def free(self) -> Iterate: ...

    @property
    def unit(self) -> Array: ...


class ArrayProblem(NamedTuple):
    """A `Problem` whose iterates are arrays."""

    anchors: Float[Array, "m n"]
    free: Float[Array, "m n"]
    unit: Float[Array, ""]


@runtime_checkable
class Solver(Protocol):
    """A way to find the singular vectors, with its layout of a matrix."""

    @property
    def config(self) -> SPLICConfig: ...

    def init(self, given: Any) -> tuple[Problem, Basis, Array]:
        """Line 1: the problem, a first basis, and the anchors' largest singular value.

        Args:
            given: a matrix and its mask, in the form that the solver takes.
        """
        ...

    def step(
        self, x: Iterate, basis: Basis, delta: Array, unit: Array
    ) -> tuple[Iterate, Basis]:
        """Lines 4 to 11: the matrix after the gradient step, and the new basis."""
        ...

    def finish(self, x: Iterate, given: Any, unit: Array) -> Any:
        """The completed matrix in the caller's unit, with the anchors unchanged."""
        ...

    def squared_norm(self, x: Iterate) -> Array:
        """The sum of squares, in the order that suits the layout."""
        ...


class State(NamedTuple):
    """The state of the loop between rounds.

    Attributes:
        x: the iterate.
        basis: the solver's.
        progress: the state of the stopping rule.
        history: the relative change of every step so far, NaN for those to come; None
            unless asked for.
    """

    x: Iterate
    basis: Basis
    progress: Progress
    history: Float[Array, " max_steps"] | None


class Completion(NamedTuple):
    """The result of a completion.

    Attributes:
        matrix: the completed matrix; equal to the input at the anchors, to the bit.
        steps: gradient steps taken, a multiple of `inner_steps`.
        relative_change: ``||X_{t+1} - X_t||_F / ||X_t||_F`` of the last step.
        converged: whether the relative change is at most the tolerance.
        trace: with ``trace=True`` the relative change of every step (paper figure 4),
            NaN after the last; else None.
    """

    matrix: Float[Array, "*b m n"]
    steps: Int[Array, "*b"]
    relative_change: Float[Array, "*b"]
    converged: Bool[Array, "*b"]
    trace: Float[Array, " max_steps"] | None = None


def completion_of(matrix: Array, state: State, config: SPLICConfig) -> Completion:
    """A `Completion` from a completed matrix and the last state."""
    progress = state.progress
    return Completion(
        matrix=matrix,
        steps=progress.round * config.inner_steps,
        relative_change=progress.change,
        converged=progress.change <= config.tolerance,
        trace=state.history,
    )


def complete(
    solver: Solver,
    given: Any,
    *,
    rule: Rule = stopping.PRINTED,
    rounds: Array | None = None,
    trace: bool = False,
    differentiable: bool = True,
) -> tuple[Any, State]:
    """Completes a matrix, paper Algorithm 1; differentiable in reverse mode, once.

    Args:
        solver: how the singular vectors are found.
        given: the matrix and mask, as the solver takes them.
        rule: when to stop.
        rounds: maximum number; None for that of the settings.
        trace: also record the relative change of every step.
        differentiable: False for a solver that runs inside a kernel.

    Returns:
        The solver's result, and the last state.
    """
    config = solver.config
    problem, state = start(solver, given, rounds=rounds, trace=trace)

    def unfinished(state: State) -> Array:
        return rule.unfinished(state.progress, config)

    if differentiable:
        advance: Callable[..., State] = partial(_kept_round, solver, rule)
        if max(problem.anchors.shape) > _LARGEST_KEPT:
            advance = jax.checkpoint(advance, prevent_cse=False)
        state = iterate(advance, unfinished, state, problem, config.max_rounds)
    else:
        advance = partial(one_round, solver, problem=problem, rule=rule)
        state = jax.lax.while_loop(unfinished, advance, state)
    return solver.finish(state.x, given, problem.unit), state


def start(
    solver: Solver, given: Any, *, rounds: Array | None = None, trace: bool = False
) -> tuple[Problem, State]:
    """Line 1 of Algorithm 1."""
    config = solver.config
    problem, basis, largest = solver.init(given)
    most = config.max_rounds if rounds is None else rounds
    size = config.max_rounds * config.inner_steps
    history = jnp.full(size, jnp.nan, largest.dtype) if trace else None
    progress = stopping.begin(largest, most)
    return problem, State(problem.anchors, basis, progress, history)


def _kept_round(solver: Solver, rule: Rule, state: State, problem: Problem) -> State:
    """`one_round` of arrays that stores only what its derivative needs."""
    keep = jax.checkpoint_policies.save_only_these_names(VECTORS)
    fixed = jax.lax.stop_gradient((problem.free, problem.unit))
    problem = ArrayProblem(problem.anchors, *fixed)
    remember = partial(jax.checkpoint, prevent_cse=False, policy=keep)
    return one_round(solver, state, problem, rule, remember=remember)


def one_round(
    solver: Solver,
    state: State,
    problem: Problem,
    rule: Rule = stopping.PRINTED,
    *,
    remember: Callable[..., Any] = lambda function: function,
) -> State:
    """Lines 3 to 16: the steps at one delta.

    Args:
        solver, rule: as in `complete`.
        state: before the round.
        problem: of `start`.
        remember: wraps a step, such as `jax.checkpoint`.

    Returns:
        The state after it.
    """
    config, progress = solver.config, state.progress

    def inner(number: Array, carry: Any) -> Any:
        _, x, basis, history = carry
        new, basis = step(solver, x, basis, progress.delta, problem)
        if history is not None:
            place = progress.round * config.inner_steps + number
            history = history.at[place].set(relative_change(solver, x, new))
        return x, new, basis, history

    carry = state.x, state.x, state.basis, state.history
    carry = jax.lax.fori_loop(0, config.inner_steps, remember(inner), carry)
    old, x, basis, history = carry
    change = relative_change(solver, old, x)
    progress = stopping.after_round(progress, change, config, rule)
    return State(x, basis, progress, history)


def step(
    solver: Solver, x: Iterate, basis: Basis, delta: Array, problem: Problem
) -> tuple[Iterate, Basis]:
    """Lines 4 to 13: the next iterate, and its basis."""
    descended, basis = solver.step(x, basis, delta, problem.unit)
    return project(descended, problem), basis


def project(descended: Iterate, problem: Problem) -> Iterate:
    """Line 13, which restores the anchors."""

    def restore(new: Array, anchors: Array, free: Array) -> Array:
        return anchors + free * new

    return jax.tree.map(restore, descended, problem.anchors, problem.free)


def relative_change(solver: Solver, x: Iterate, new: Iterate) -> Array:
    """Line 2: the relative change of a step."""
    moved = solver.squared_norm(jax.tree.map(jnp.subtract, new, x))
    return stopping.relative_change(moved, solver.squared_norm(x))


def alternate(
    one_pass: Callable[[Array, Array], Array],
    matrix: Float[Array, "*b m n"],
    mask: Bool[Array, "*b m n"],
    config: SPLICConfig,
) -> Float[Array, "*b m n"]:
    """Both passes of section 3.4: `one_pass`, then again with the mask inverted.

    Args:
        one_pass: ``(matrix, mask) -> matrix``, of one matrix or of ``[b, m, n]``.
        matrix: with the anchors.
        mask: True at the anchors.
        config: the settings; with `alternate` False there is only the first pass.
    """
    if not config.alternate:
        return one_pass(matrix, mask)
    # Without targets pass 1 returns the matrix as it is, and pass 2 would have no
    # anchors. It takes all pixels as anchors again and returns the matrix too.
    nothing_to_swap = jnp.all(mask, axis=(-2, -1), keepdims=True)

    def swap(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        matrix, mask = carry
        return (one_pass(matrix, mask), ~mask | nothing_to_swap), None

    (matrix, _), _ = jax.lax.scan(swap, (matrix, mask), length=2)
    return matrix
