"""What every attack takes and returns."""

import enum
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray

# (images [n, h, w, c] in [0, 1], key) -> logits [n, k]. The key feeds whatever is
# random in the classifier or in a defence before it; the rest may ignore it.
LogitsFunction = Callable[
    [Float[Array, "n h w c"], PRNGKeyArray], Float[Array, "n classes"]
]

# (images [n, h, w, c] in [0, 1], key) -> images: a defence put before a classifier.
Transform = Callable[[Float[Array, "n h w c"], PRNGKeyArray], Float[Array, "n h w c"]]


class Status(enum.IntEnum):
    """Why an attack stopped on an image.

    Where an attack makes several runs for an image (restarts, targets, stages) the
    lowest code of these is the image's: one run that spent its budget is a search. What
    lies above `BUDGET`, on an image that the attack did not break, is an image that was
    given up on, and no sign that the classifier withstands anything; see
    `attacks.soundness.check_given_up`.

    Attributes:
        SUCCEEDED: it had what it wanted, on the image as it was or later, and asked no
            more. Attacks that spend their budget all the same say `BUDGET`, whether or
            not they succeed.
        BUDGET: its steps or queries were spent.
        CONVERGED: nothing changed any more, before its budget was spent.
        NO_GRADIENT: in most of its steps there was no slope to follow: zero, or not
            finite, in every pixel.
        NO_START: it needs a misclassified image to start from and found none.
        NOT_FINITE: the classifier had no finite answer for it, to any question.
    """

    SUCCEEDED = 0
    BUDGET = 1
    CONVERGED = 2
    NO_GRADIENT = 3
    NO_START = 4
    NOT_FINITE = 5


class Attacked(NamedTuple):
    """The result of an attack, one entry per image.

    Attributes:
        images: the perturbed images, floats in [0, 1].
        success: whether the classifier got the perturbed image wrong (or named the
            target, where there is one), asked once more with a fresh key, or with
            several of them and decided by vote. Logits that are not finite name no
            class and count as wrong; an attack keeps such an image only where it had
            no other.
        loss: the attack's loss at those last queries, in nats for cross-entropy.
        queries: how often the classifier saw a version of the image; a query with its
            gradient counts as one.
        not_finite: how many answers held a NaN or an infinity, an answer averaged over
            several keys counting as one.
        status: why the attack stopped, a code of `Status`.
    """

    images: Float[Array, "n h w c"]
    success: Bool[Array, " n"]
    loss: Float[Array, " n"]
    queries: Int32[Array, " n"]
    not_finite: Int32[Array, " n"]
    # For attacks written elsewhere, which may leave it out.
    status: Int32[Array, " n"] = np.int32(Status.BUDGET)  # type: ignore[assignment]
