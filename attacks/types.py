"""What every attack takes and returns."""

import enum
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray

Images = Float[Array, "n h w c"]
PerImage = Float[Array, " n"]

# (images [n, h, w, c] in [0, 1], key) -> logits [n, k]. The key is for a random
# classifier or defense; a deterministic one ignores it.
LogitsFunction = Callable[
    [Float[Array, "n h w c"], PRNGKeyArray], Float[Array, "n classes"]
]

# (images [n, h, w, c] in [0, 1], key) -> images: a defense in front of a classifier.
Transform = Callable[[Float[Array, "n h w c"], PRNGKeyArray], Float[Array, "n h w c"]]


class Status(enum.IntEnum):
    """Why an attack stopped on an image.

    `autoattack` and `multi_targeted` report the lowest code of their stages or runs;
    other attacks judge the steps of all restarts and targets together. A code above
    `BUDGET` on an image that was not broken means that the attack gave up, which is no
    evidence of robustness; see `attacks.soundness.check_given_up`.

    Attributes:
        SUCCEEDED: reached its goal, possibly on the clean image, and stopped. Attacks
            that always spend their budget report `BUDGET` even if they succeed.
        BUDGET: spent all its steps or queries.
        CONVERGED: made no more progress, before its budget was spent.
        NO_GRADIENT: in most steps the gradient was zero or not finite in every pixel.
        NO_START: found no misclassified image to start from.
        NOT_FINITE: no query returned finite logits.
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
        success: whether the classifier misclassifies the perturbed image (or predicts
            the target) in a final evaluation under a new key, or by majority vote under
            several. Logits that are not finite predict no class: a misclassification,
            but no target. An attack returns such an image only if it has no other.
        loss: the attack's loss in the final evaluation, in nats for cross-entropy.
        queries: number of times the classifier was evaluated on a version of the image;
            logits and a gradient from the same pass count as one.
        not_finite: number of queries with NaN or infinite logits; a query averaged over
            several keys counts as one.
        status: why the attack stopped, a code of `Status`.
    """

    images: Float[Array, "n h w c"]
    success: Bool[Array, " n"]
    loss: Float[Array, " n"]
    queries: Int32[Array, " n"]
    not_finite: Int32[Array, " n"]
    # The default is for attacks from outside this package.
    status: Int32[Array, " n"] = np.int32(Status.BUDGET)  # type: ignore[assignment]
