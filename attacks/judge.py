"""Evaluation of attacked images, also for random classifiers.

The prediction of a random classifier varies from query to query. One query cannot tell
an adversarial image from an unlucky draw, so an image is evaluated under several keys,
none of which the attack has used.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray

from attacks.empty import allow_no_images
from attacks.inputs import (
    require_at_least,
    require_images,
    require_key,
    require_labels,
)
from attacks.loops import canonical
from attacks.losses import Loss, cross_entropy
from attacks.oracle import Goal, make_goal
from attacks.precision import in_working_precision
from attacks.types import LogitsFunction


class Judged(NamedTuple):
    """Evaluation of each image under several keys.

    Attributes:
        accuracy: the share of the keys under which the prediction is correct.
        majority: whether the label is the class predicted most often; ties go to the
            lower class index.
        loss: mean over the keys.
        finite: whether all logits were finite under all keys.
    """

    accuracy: Float[Array, " n"]
    majority: Bool[Array, " n"]
    loss: Float[Array, " n"]
    finite: Bool[Array, " n"]


@allow_no_images
@in_working_precision
def judge(
    logits_fn: LogitsFunction,
    images: Float[Array, "n h w c"],
    labels: Integer[Array, " n"],
    key: PRNGKeyArray,
    *,
    evaluations: int = 1,
    loss: Loss = cross_entropy,
) -> Judged:
    """Queries a classifier `evaluations` times for each image.

    The mean of `accuracy` over images is the expected accuracy of the random
    classifier; the mean of `majority` is its accuracy under a majority vote.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``.
        images: floats in [0, 1].
        labels: integers in [0, classes).
        key: split into one key per query; used as it is for 1 query.
        evaluations: number of queries; 1 is enough for a deterministic classifier.
        loss: ``(logits, labels) -> [n]``.

    Returns:
        The evaluation of each image. Logits that are not finite predict no class.

    Raises:
        TypeError: images or labels that are not arrays, or a key that is not a JAX key.
        ValueError: wrong shapes or dtypes, or `evaluations` below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attacks import judge
        >>> def coin(images, key):  # right once in five times
        ...     right = jax.random.bernoulli(key, 0.2, (len(images),))
        ...     return jnp.stack([1.0 - right, right], axis=1)
        >>> images, labels = jnp.zeros((1, 4, 4, 3)), jnp.array([1])
        >>> judged = judge(coin, images, labels, jax.random.key(0), evaluations=200)
        >>> print(f"{judged.accuracy[0]:.1f} {judged.majority[0]}")
        0.2 False
    """
    require_at_least(1, evaluations=evaluations)
    require_images(images)
    require_labels(labels, len(images))
    require_key(key)
    return judge_goal(logits_fn, make_goal(loss, labels), images, key, evaluations)


# Votes for the classes, losses, and whether the logits were finite.
_Answers = tuple[Array, Array, Array]


def judge_goal(
    logits_fn: LogitsFunction,
    goal: Goal,
    images: Float[Array, "n h w c"],
    key: PRNGKeyArray,
    evaluations: int,
) -> Judged:
    """`judge` for any goal; a targeted one has the targets in place of the labels."""
    classes = goal.classes

    def one(key: PRNGKeyArray) -> _Answers:
        logits = canonical(logits_fn)(images, key)
        finite = jnp.isfinite(logits).all(axis=-1)
        predicted = jnp.where(finite, logits.argmax(axis=-1), -1)
        votes = jax.nn.one_hot(predicted, logits.shape[1], dtype=images.dtype)
        return votes, goal.loss(logits).astype(images.dtype), finite

    if evaluations == 1:
        votes, loss, finite = one(key)
    else:

        def add(total: _Answers, key: PRNGKeyArray) -> tuple[_Answers, None]:
            votes, loss, finite = one(key)
            return (total[0] + votes, total[1] + loss, total[2] & finite), None

        keys = jax.random.split(key, evaluations)
        total, _ = jax.lax.scan(add, one(keys[0]), keys[1:])
        votes, loss, finite = total[0], total[1] / evaluations, total[2]
    correct = jnp.take_along_axis(votes, classes[:, None], axis=1)[:, 0]
    # If no logits were finite, no class has a vote.
    majority = (votes.argmax(axis=1) == classes) & (correct > 0)
    return Judged(correct / evaluations, majority, loss, finite)
