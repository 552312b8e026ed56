"""What a training recipe is: how a batch is attacked, and what is then minimised."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from jaxtyping import Array, Float, Integer, PRNGKeyArray

from attacks.types import LogitsFunction

Images = Float[Array, "n h w c"]
Labels = Integer[Array, " n"]
Logits = Float[Array, "n classes"]


class Outputs(NamedTuple):
    """The network's outputs for a batch; features are what its last layer sees."""

    logits: Logits
    features: Float[Array, "n width"]


# ``(images, key) -> outputs`` of the network in training, behind its input transform.
# The key is the transform's. Each call moves the running batch statistics.
Forward = Callable[[Images, PRNGKeyArray], Outputs]


class Frozen(NamedTuple):
    """What an attack inside a step may query, ``(images, key) -> logits`` each.

    Attributes:
        network: the network as the step finds it, with its running statistics, behind
            its input transform; the transform's derivative is replaced (BPDA).
        static: networks trained before.
    """

    network: LogitsFunction
    static: tuple[LogitsFunction, ...] = ()


class Batch(NamedTuple):
    """The batch that the loss of a step is computed from.

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
    """How a training step attacks a batch, and its loss; with frozen settings."""

    def craft(
        self, frozen: Frozen, images: Images, labels: Labels, key: PRNGKeyArray
    ) -> Images:
        """Returns the attacked images for the loss, which are constants to it."""
        ...

    def loss(self, forward: Forward, batch: Batch, key: PRNGKeyArray) -> LossOf:
        """Returns what is minimised, and the logits that count as the answers."""
        ...
