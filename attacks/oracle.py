"""Queries of a classifier: loss, success and gradient for each image."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Integer, Key, PRNGKeyArray

from attacks.inputs import require_at_least
from attacks.keys import mappable
from attacks.loops import canonical
from attacks.losses import CROSS_ENTROPY, Loss, LossPair
from attacks.remaining import (
    GRADIENT_DIVISORS,
    Remaining,
    batch_sizes,
    on_remaining,
)
from attacks.types import LogitsFunction


class Answer(NamedTuple):
    """The result of a query, averaged over its samples.

    Attributes:
        loss: the attack's loss.
        wrong: the share of the samples that reach the goal or are not finite.
        finite: whether all logits were finite in all samples.
        gradient: of the loss with respect to the images; None if not computed.
        logits: mean over the samples.
        not_finite: number of queries without finite logits; None for `~finite`.
    """

    loss: Float[Array, " n"]
    wrong: Float[Array, " n"]
    finite: Bool[Array, " n"]
    gradient: Float[Array, "n h w c"] | None
    logits: Float[Array, "n classes"]
    not_finite: Int32[Array, " n"] | None = None


class Goal(NamedTuple):
    """The goal of an attack.

    Attributes:
        measure: ``(logits, *given) -> [n]``, the loss to maximize.
        given: its other arguments, with one entry per image: labels, targets.
        classes: the targets of a targeted attack, else the labels.
        targeted: whether predicting the class is success, or else failure.
    """

    measure: Callable[..., Array]
    given: tuple[Array, ...]
    classes: Integer[Array, " n"]
    targeted: bool

    def loss(self, logits: Float[Array, "n classes"]) -> Float[Array, " n"]:
        """The loss to maximize."""
        return self.measure(logits, *self.given)

    def reached(self, logits: Float[Array, "n classes"]) -> Bool[Array, " n"]:
        """Whether the prediction is a success."""
        return (logits.argmax(axis=-1) == self.classes) == self.targeted

    def batch_sizes(
        self,
        logits_fn: LogitsFunction,
        images: Float[Array, "n h w c"],
        key: PRNGKeyArray,
        *,
        samples: int = 1,
        divisors: tuple[int, ...] = GRADIENT_DIVISORS,
    ) -> tuple[int, ...]:
        """`attacks.remaining.batch_sizes` for queries with this goal."""
        return batch_sizes(
            logits_fn,
            self.measure,
            self.given,
            images,
            key,
            samples=samples,
            divisors=divisors,
        )


def make_goal(
    loss: Loss | None,
    labels: Integer[Array | np.ndarray, " n"],
    targets: Integer[Array | np.ndarray, " n"] | None = None,
    *,
    default: LossPair = CROSS_ENTROPY,
) -> Goal:
    """The untargeted goal, or the targeted one if there are targets.

    Args:
        loss: ``(logits, labels) -> [n]``, with targets ``(logits, labels, targets) ->
            [n]``; None for the default.
        labels: the true classes.
        targets: the target classes, or None.
        default: the untargeted and the targeted default loss.
    """
    targeted = targets is not None
    loss = default[targeted] if loss is None else loss
    labels = jnp.asarray(labels)
    if not targeted:
        return Goal(loss, (labels,), labels, targeted)
    targets = jnp.asarray(targets)
    return Goal(loss, (labels, targets), targets, targeted)


class Sampling(NamedTuple):
    """How many keys an attack uses for a random classifier.

    Attributes:
        samples: keys over which a query is averaged; >= 1.
        chunk: of these, keys per `jax.vmap`; memory grows with it.
        evaluations: keys of the final evaluation; >= 1.
    """

    samples: int = 1
    chunk: int = 1
    evaluations: int = 1

    @property
    def randomized(self) -> bool:
        """Whether several keys imply a random classifier."""
        return self.samples > 1 or self.evaluations > 1


ONE_SAMPLE = Sampling()


def make_sampling(eot_samples: int, eot_chunk: int, evaluations: int) -> Sampling:
    """Checks an attack's arguments of these names."""
    require_at_least(
        1, evaluations=evaluations, eot_samples=eot_samples, eot_chunk=eot_chunk
    )
    return Sampling(eot_samples, eot_chunk, evaluations)


def query(
    logits_fn: LogitsFunction,
    goal: Goal,
    images: Float[Array, "n h w c"],
    key: PRNGKeyArray,
    *,
    sampling: Sampling = ONE_SAMPLE,
    gradient: bool = True,
    remaining: Remaining | None = None,
) -> Answer:
    r"""Expectation over transformation: the mean answer over several keys.

    .. math::
        \frac{1}{m} \sum_{j=1}^m L(f(x; k_j)), \qquad
        \frac{1}{m} \sum_{j=1}^m \nabla_x L(f(x; k_j))

    Gradient entries that are not finite in a sample count as 0 there.

    Args:
        logits_fn: ``(images, key) -> logits``.
        goal: the loss, and what counts as success.
        images: a batch.
        key: used as it is for 1 sample, split for several.
        sampling: m, and how many of these keys at a time.
        gradient: whether to differentiate.
        remaining: the images to query, used with 1 sample; None for all. Results for
            other images are undefined.

    Returns:
        The answer.

    References:
        Athalye et al. 2018, "Synthesizing robust adversarial examples", eq. (2).
    """

    targeted, (samples, chunk, _) = goal.targeted, sampling

    def one(
        key: PRNGKeyArray,
        images: Array = images,
        given: tuple[Array, ...] = goal.given,
        classes: Array = goal.classes,
    ) -> Answer:
        part_goal = Goal(goal.measure, given, classes, targeted)

        def loss_sum(
            images: Array, key: PRNGKeyArray
        ) -> tuple[Array, tuple[Array, Array]]:
            logits = logits_fn(images, key)
            loss = part_goal.loss(logits).astype(images.dtype)
            # Images are independent, so the gradient of the sum holds each image's.
            return loss.sum(), (loss, logits)

        slope = None
        if gradient:
            slope_of = canonical(jax.grad(loss_sum, has_aux=True))
            slope, (loss, logits) = slope_of(images, key)
            slope = jnp.where(jnp.isfinite(slope), slope, 0)
        else:
            _, (loss, logits) = canonical(loss_sum)(images, key)
        finite = jnp.isfinite(logits).all(axis=-1)
        wrong = part_goal.reached(logits) | ~finite
        return Answer(loss, wrong.astype(images.dtype), finite, slope, logits)

    def sum_over(keys: Key[Array, " several"]) -> Answer:
        """Sums over these keys, and whether all logits are finite."""
        if len(keys) == 1:
            return one(keys[0])
        answers = jax.vmap(one)(keys)
        sums = _mapped(lambda x: x.sum(axis=0), answers)
        return sums._replace(finite=answers.finite.all(axis=0))

    if samples == 1 and remaining is not None:
        batch = images, goal.given, goal.classes
        return on_remaining(lambda batch: one(key, *batch), batch, remaining)
    if samples == 1:
        return one(key)
    keys, chunk = jax.random.split(mappable(key), samples), min(chunk, samples)
    first = samples % chunk or chunk  # a partial chunk first, then full ones
    total, _ = jax.lax.scan(
        lambda total, keys: (_added(total, sum_over(keys)), None),
        sum_over(keys[:first]),
        keys[first:].reshape(-1, chunk),
    )
    mean = _mapped(lambda x: x / samples, total)
    return mean._replace(finite=total.finite)


def mean_logits(
    logits_fn: LogitsFunction,
    images: Float[Array, "n h w c"],
    key: PRNGKeyArray,
    sampling: Sampling,
) -> Float[Array, "n classes"]:
    """Expectation over transformation of the logits, and so of their gradients.

    The keys are those of `query`. The derivative recomputes the forward passes, so its
    memory is that of one chunk.
    """
    samples, chunk, _ = sampling
    if samples == 1:
        return logits_fn(images, key)
    one = jax.checkpoint(lambda key: logits_fn(images, key))
    keys = jax.random.split(mappable(key), samples)
    logits: Array = jax.lax.map(one, keys, batch_size=min(chunk, samples))
    return logits.mean(axis=0)


def _mapped(function: Callable[..., Array], *answers: Answer) -> Answer:
    """Maps a function over the answers' arrays except `finite`, which is boolean."""
    # None is not a leaf; callers set `finite` afterwards.
    rest = [x._replace(finite=None) for x in answers]  # type: ignore[arg-type]
    mapped: Answer = jax.tree.map(function, *rest)
    return mapped


def _added(total: Answer, more: Answer) -> Answer:
    sums = _mapped(jnp.add, total, more)
    return sums._replace(finite=total.finite & more.finite)
