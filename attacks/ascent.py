"""The shared loop of gradient attacks: query, update the best, step and project."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int32, Integer, PRNGKeyArray

from attacks.judge import Judged, judge_goal
from attacks.oracle import Answer, Goal
from attacks.types import Attacked, LogitsFunction, Status

Tree = TypeVar("Tree")


class Rule(NamedTuple):
    """The update rule of an attack.

    Attributes:
        init: ``images -> state``, at the start; any pytree.
        step: ``(state, images, answer, index) -> (images, state)``, given the answer to
            a query of the images; includes the projection.
    """

    init: Callable[[Array], Any]
    step: Callable[[Any, Array, Answer, Array], tuple[Array, Any]]


class Best(NamedTuple):
    """The best images so far, which an attack would return if it ended now.

    Attributes:
        images, loss: the images and their loss.
        wrong: the share of their samples that reached the goal; -1 before any query
            had finite logits.
        not_finite: number of queries so far without finite logits.
        flat: number of steps with a zero gradient minus those with a nonzero one.
    """

    images: Float[Array, "n h w c"]
    loss: Float[Array, " n"]
    wrong: Float[Array, " n"]
    not_finite: Int32[Array, " n"]
    flat: Int32[Array, " n"]


# (best so far, new) -> where the new images are better
Preference = Callable[[Best, Best], Bool[Array, " n"]]


def latest(best: Best, new: Best) -> Bool[Array, " n"]:
    """Prefers the later image."""
    del best
    return jnp.ones(len(new.loss), bool)


def wrong_first(best: Best, new: Best) -> Bool[Array, " n"]:
    """Prefers the larger share of errors, then the higher loss."""
    as_wrong = (new.wrong == best.wrong) & (new.loss > best.loss)
    return (new.wrong > best.wrong) | as_wrong


def highest_loss(best: Best, new: Best) -> Bool[Array, " n"]:
    """Prefers the higher loss; one error of a random classifier proves nothing."""
    return new.loss > best.loss


def preference(*, randomized: bool) -> Preference:
    """The preference for random or for deterministic classifiers."""
    return highest_loss if randomized else wrong_first


def initial_best(images: Array) -> Best:
    """The state before any query, worse than any result."""
    n, dtype = len(images), images.dtype
    least = jnp.full(n, -jnp.inf, dtype)
    none = jnp.zeros(n, jnp.int32)
    return Best(images, least, jnp.full(n, -1, dtype), none, none)


def update_best(best: Best, images: Array, answer: Answer, prefers: Preference) -> Best:
    """Takes the new images where they are better and their logits are finite."""
    not_finite = answer.not_finite
    if not_finite is None:
        not_finite = (~answer.finite).astype(jnp.int32)
    flat = jnp.zeros_like(best.flat)
    if answer.gradient is not None:
        flat = flat_gradient(answer.gradient)
    new = Best(images, answer.loss, answer.wrong, not_finite, flat)
    return merge(best, new, prefers, answer.finite)


def flat_gradient(gradient: Float[Array, "n h w c"]) -> Int32[Array, " n"]:
    """1 where the gradient is 0 in every pixel, else -1."""
    return jnp.where((gradient == 0).all(axis=(1, 2, 3)), 1, -1).astype(jnp.int32)


def merge(
    best: Best, other: Best, prefers: Preference, answered: Array | None = None
) -> Best:
    """The better of two, where `other` has finite logits."""
    if answered is None:
        answered = other.wrong >= 0
    better = choose(answered & prefers(best, other), other, best)
    return better._replace(
        not_finite=best.not_finite + other.not_finite, flat=best.flat + other.flat
    )


def choose(chosen: Bool[Array, " n"], new: Tree, old: Tree) -> Tree:
    """Selects from two pytrees of arrays ``[n, ...]``, image by image."""

    def one(new: Array, old: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    mixed: Tree = jax.tree.map(one, new, old)
    return mixed


def ascend(
    oracle: Callable[..., Answer],
    rule: Rule,
    start: Float[Array, "n h w c"],
    key: PRNGKeyArray,
    *,
    steps: int,
    prefers: Preference,
    query_last: bool = True,
) -> tuple[Float[Array, "n h w c"], Best]:
    """Runs an update rule for a fixed number of steps.

    Args:
        oracle: ``(images, key, gradient=True) -> answer``.
        rule: the update rule.
        start: images.
        key: folded into one key per query.
        steps: number of steps, each with one query for the gradient.
        prefers: which images are better.
        query_last: whether to query the last iterate, without a gradient.

    Returns:
        The last iterate, and the best of those queried.
    """

    def step(index: Array, carry: tuple[Array, Any, Best]) -> tuple[Array, Any, Best]:
        images, state, best = carry
        answer = oracle(images, jax.random.fold_in(key, index))
        best = update_best(best, images, answer, prefers)
        images, state = rule.step(state, images, answer, index)
        return images, state, best

    carry = (start, rule.init(start), initial_best(start))
    images, _, best = jax.lax.fori_loop(0, steps, step, carry)
    if query_last:
        answer = oracle(images, jax.random.fold_in(key, steps), gradient=False)
        best = update_best(best, images, answer, prefers)
    return images, best


def finish(
    logits_fn: LogitsFunction,
    goal: Goal,
    best: Best,
    key: PRNGKeyArray,
    evaluations: int,
    *,
    queries: Integer[Array, " n"] | int,
    status: Int32[Array, " n"] | int,
) -> Attacked:
    """The final evaluation of the best images, under keys the attack has not used.

    Args:
        logits_fn: ``(images, key) -> logits``.
        goal: the attack's goal.
        best: the best images.
        key: of the final evaluation.
        evaluations: number of its queries.
        queries: number of queries before it, per image.
        status: why the attack stopped.

    Returns:
        The result of the attack.
    """
    images = jax.lax.stop_gradient(best.images)
    judged = judge_goal(logits_fn, goal, images, key, evaluations)
    not_finite = best.not_finite + ~judged.finite
    best = best._replace(images=images, not_finite=not_finite)
    return _attacked(goal, best, judged, queries + evaluations, status)


def finish_last_iterate(
    logits_fn: LogitsFunction,
    goal: Goal,
    images: Float[Array, "n h w c"],
    best: Best,
    key: PRNGKeyArray,
    evaluations: int,
    *,
    queries: int,
) -> Attacked:
    """The final evaluation of the last iterates, which have not been queried before.

    Where logits are not finite the best image replaces the last iterate, at the cost of
    a second evaluation.

    Args:
        logits_fn, goal, key, evaluations, queries: as in `finish`.
        images: the last iterates.
        best: the best images before them.

    Returns:
        The result of the attack.
    """
    judge_at = partial(judge_goal, logits_fn, goal, key=key, evaluations=evaluations)
    images = jax.lax.stop_gradient(images)
    judged = judge_at(images)
    answered = judged.finite
    invalid = (~answered).astype(jnp.int32)
    end = Best(images, judged.loss, 1 - judged.accuracy, invalid, 0 * best.flat)
    best = merge(best, end, latest, answered)
    judged = jax.lax.cond(answered.all(), lambda: judged, lambda: judge_at(best.images))
    best = best._replace(not_finite=best.not_finite + ~judged.finite)
    total = queries + (1 + invalid) * evaluations
    return _attacked(goal, best, judged, total, stop_status(best))


def _attacked(
    goal: Goal,
    best: Best,
    judged: Judged,
    queries: Integer[Array, " n"] | int,
    status: Int32[Array, " n"] | int,
) -> Attacked:
    n = len(best.images)
    return Attacked(
        best.images,
        judged.majority if goal.targeted else ~judged.majority,
        judged.loss,
        jnp.broadcast_to(jnp.asarray(queries, jnp.int32), n),
        best.not_finite,
        jnp.broadcast_to(jnp.asarray(status, jnp.int32), n),
    )


def stop_status(
    best: Best,
    otherwise: Integer[ArrayLike, "*n"] = Status.BUDGET,
    *,
    at_wrong: bool = False,
) -> Int32[Array, " n"]:
    """The code of `Status` that follows from the best images.

    Args:
        best: the best images.
        otherwise: the code where no other applies.
        at_wrong: whether the attack stops at the first misclassification.
    """
    status = jnp.where(best.flat > 0, Status.NO_GRADIENT.value, otherwise)
    status = jnp.where(best.wrong < 0, Status.NOT_FINITE.value, status)
    if at_wrong:
        status = jnp.where(best.wrong >= 1, Status.SUCCEEDED.value, status)
    return status.astype(jnp.int32)
