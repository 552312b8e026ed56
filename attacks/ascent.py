"""The loop that gradient attacks share: step, project, keep, and judge at the end."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int32, Integer, Key, PRNGKeyArray

from attacks.judge import Judged, judge_goal
from attacks.keys import mappable
from attacks.oracle import Answer, Goal
from attacks.types import Attacked, LogitsFunction, Status

Tree = TypeVar("Tree")


class Rule(NamedTuple):
    """How an attack moves.

    Attributes:
        init: ``images -> state``, at the start; any pytree.
        step: ``(state, images, answer, index) -> (images, state)``, the answer being
            that to the images; the result is projected by the rule itself.
    """

    init: Callable[[Array], Any]
    step: Callable[[Any, Array, Answer, Array], tuple[Array, Any]]


class Best(NamedTuple):
    """The image an attack would return if it ended now, and what is known of it.

    Attributes:
        images, loss: as they are.
        wrong: how often the answer to it was wrong; -1 where none was finite.
        not_finite: how many answers were not, to any image.
        flat: how many steps had no slope to follow, less those that had one.
    """

    images: Float[Array, "n h w c"]
    loss: Float[Array, " n"]
    wrong: Float[Array, " n"]
    not_finite: Int32[Array, " n"]
    flat: Int32[Array, " n"]


# (kept so far, new) -> where the new ones are preferred
Preference = Callable[[Best, Best], Bool[Array, " n"]]


def latest(best: Best, new: Best) -> Bool[Array, " n"]:
    """Prefers the later image."""
    del best
    return jnp.ones(len(new.loss), bool)


def wrong_first(best: Best, new: Best) -> Bool[Array, " n"]:
    """Prefers what is wrong more often, and of these what has the higher loss."""
    as_wrong = (new.wrong == best.wrong) & (new.loss > best.loss)
    return (new.wrong > best.wrong) | as_wrong


def highest_loss(best: Best, new: Best) -> Bool[Array, " n"]:
    """Prefers the higher loss: one wrong answer of a random classifier is no proof."""
    return new.loss > best.loss


def preference(*, randomized: bool) -> Preference:
    """What is worth keeping of a classifier that is random, or is not."""
    return highest_loss if randomized else wrong_first


def initial_best(images: Array) -> Best:
    """Before the first answer: the images given, worse than any."""
    n, dtype = len(images), images.dtype
    least = jnp.full(n, -jnp.inf, dtype)
    none = jnp.zeros(n, jnp.int32)
    return Best(images, least, jnp.full(n, -1, dtype), none, none)


def update_best(best: Best, images: Array, answer: Answer, prefers: Preference) -> Best:
    """Takes the new images where they are preferred; never one without an answer."""
    not_finite = answer.not_finite
    if not_finite is None:
        not_finite = (~answer.finite).astype(jnp.int32)
    flat = jnp.zeros_like(best.flat)
    if answer.gradient is not None:
        flat = flat_gradient(answer.gradient)
    new = Best(images, answer.loss, answer.wrong, not_finite, flat)
    return merge(best, new, prefers, answer.finite)


def flat_gradient(slope: Float[Array, "n h w c"]) -> Int32[Array, " n"]:
    """1 where a slope is 0 in every pixel, -1 where it is not."""
    return jnp.where((slope == 0).all(axis=(1, 2, 3)), 1, -1).astype(jnp.int32)


def merge(
    best: Best, other: Best, prefers: Preference, answered: Array | None = None
) -> Best:
    """The preferred of two, where `other` has been answered at all."""
    if answered is None:
        answered = other.wrong >= 0
    better = choose(answered & prefers(best, other), other, best)
    return better._replace(
        not_finite=best.not_finite + other.not_finite, flat=best.flat + other.flat
    )


def choose(chosen: Bool[Array, " n"], new: Tree, old: Tree) -> Tree:
    """The new of two pytrees of arrays ``[n, ...]`` for the images chosen."""

    def one(new: Array, old: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    mixed: Tree = jax.tree.map(one, new, old)
    return mixed


def take_steps(
    oracle: Callable[..., Answer],
    rule: Rule,
    start: Float[Array, "n h w c"],
    key: PRNGKeyArray,
    *,
    steps: int,
    prefers: Preference,
) -> tuple[Float[Array, "n h w c"], Best]:
    """Moves images by a rule, a fixed number of steps.

    Args:
        oracle: ``(images, key, gradient=True) -> answer``.
        rule: how to move.
        start: images.
        key: of the queries, which get one each of their own.
        steps: number of steps; the classifier is asked before each, with the gradient.
        prefers: which of the images to keep.

    Returns:
        The images after the last step, which the classifier has not been asked about,
        and those kept of the ones before.
    """

    def step(index: Array, carry: tuple[Array, Any, Best]) -> tuple[Array, Any, Best]:
        images, state, best = carry
        answer = oracle(images, jax.random.fold_in(key, index))
        best = update_best(best, images, answer, prefers)
        images, state = rule.step(state, images, answer, index)
        return images, state, best

    carry = (start, rule.init(start), initial_best(start))
    images, _, best = jax.lax.fori_loop(0, steps, step, carry)
    return images, best


def ascend(
    oracle: Callable[..., Answer],
    rule: Rule,
    start: Float[Array, "n h w c"],
    key: PRNGKeyArray,
    *,
    steps: int,
    prefers: Preference,
) -> Best:
    """`climb`, and a query without the gradient about where it ends.

    Returns:
        The kept images.
    """
    images, best = take_steps(oracle, rule, start, key, steps=steps, prefers=prefers)
    answer = oracle(images, jax.random.fold_in(key, steps), gradient=False)
    return update_best(best, images, answer, prefers)


def finish(
    logits_fn: LogitsFunction,
    goal: Goal,
    best: Best,
    key: PRNGKeyArray,
    *,
    evaluations: int,
    queries: Integer[Array, " n"] | int,
    status: Int32[Array, " n"] | int,
) -> Attacked:
    """Judges what was kept, under keys that the attack has not seen.

    Args:
        logits_fn: ``(images, key) -> logits``.
        wanted: the goal.
        kept: the images.
        key: of the last queries.
        evaluations: how many of them.
        queries: how often the classifier was asked before, for each image.
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
    *,
    evaluations: int,
    queries: int,
) -> Attacked:
    """Judges where an attack ended, by the only query about it.

    An image whose logits are not finite gives way to what was kept, which is judged.

    Args:
        logits_fn, wanted, key, evaluations, queries: as in `finish`.
        images: where the attack ended.
        kept: what takes the place of an image without finite logits.

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
    """Why an attack stopped, for all that is known of what it kept.

    Args:
        kept: the images.
        otherwise: what it is where nothing kept says more.
        at_wrong: whether the attack asks no more once an answer is wrong.
    """
    status = jnp.where(best.flat > 0, Status.NO_GRADIENT.value, otherwise)
    status = jnp.where(best.wrong < 0, Status.NOT_FINITE.value, status)
    if at_wrong:
        status = jnp.where(best.wrong >= 1, Status.SUCCEEDED.value, status)
    return status.astype(jnp.int32)


def image_keys(
    key: PRNGKeyArray, first_index: Integer[ArrayLike, ""], images: Array
) -> Key[Array, " n"]:
    """A key for each image, from its index in the whole set; of threefry, always."""
    return jax.vmap(jax.random.fold_in, (None, 0))(
        mappable(key), first_index + jnp.arange(len(images))
    )


def fold_in_index(
    keys: Key[Array, " n"], index: Integer[Array, ""] | int
) -> Key[Array, " n"]:
    """The images' keys with one number folded into each."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, index)
