"""What every attack takes and returns."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray

# (images [n, h, w, c] in [0, 1], key) -> logits [n, k]. The key feeds whatever is
# random in the classifier or in a defence before it; the rest may ignore it.
LogitsFunction = Callable[
    [Float[Array, "n h w c"], PRNGKeyArray], Float[Array, "n classes"]
]

# (images [n, h, w, c] in [0, 1], key) -> images: a defence put before a classifier.
Transform = Callable[[Float[Array, "n h w c"], PRNGKeyArray], Float[Array, "n h w c"]]


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
    """

    images: Float[Array, "n h w c"]
    success: Bool[Array, " n"]
    loss: Float[Array, " n"]
    queries: Int32[Array, " n"]
    not_finite: Int32[Array, " n"]
