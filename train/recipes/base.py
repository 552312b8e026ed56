"""What a training recipe is: how a batch is attacked, and what is then minimised."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from jaxtyping import Array, Float, Integer, PRNGKeyArray

from attacks.types import LogitsFunction

Images = Float[Array, "n h w c"]
Labels = Integer[Array, " n"]
Logits = Float[Array, "n classes"]


class Outputs(NamedTuple):
    """What the network makes of a batch; features are what its last layer sees."""

    logits: Logits
    features: Float[Array, "n width"]


# ``(images, key) -> outputs`` of the network in training, behind its input transform.
# The key is the transform's. Each call moves the running batch statistics.
Forward = Callable[[Images, PRNGKeyArray], Outputs]


class Frozen(NamedTuple):
    """What an attack inside a step may ask, ``(images, key) -> logits`` each.

    Attributes:
        network: the network as the step finds it, with its running statistics, behind
            its input transform; the transform's derivative is replaced (BPDA).
        static: networks trained before.
    """

    network: LogitsFunction
    static: tuple[LogitsFunction, ...] = ()


class Batch(NamedTuple):
    """What the loss of a step is of.

    Attributes:
        images: float32 in [0, 1].
        attacked: what `Recipe.craft` made of them.
        labels: of both.
    """

    images: Images
    attacked: Images
    labels: Labels


# What is minimised, and the logits that count as the answers.
LossOf = tuple[Float[Array, ""], Logits]


class Recipe(Protocol):
    """A loss and a batch step for the training loop, and its numbers, frozen."""

    def craft(
        self, frozen: Frozen, images: Images, labels: Labels, key: PRNGKeyArray
    ) -> Images:
        """Returns the images that the loss sees as attacked, constants to it."""
        ...

    def loss(self, forward: Forward, batch: Batch, key: PRNGKeyArray) -> LossOf:
        """Returns what is minimised, and the logits that count as the answers."""
        ...
