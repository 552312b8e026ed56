"""What a training recipe is: how a batch is attacked, and what is then minimised."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import optax
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from attacks.types import LogitsFunction
from splic_jax.fields import require_number

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


def cross_entropy(logits: Logits, labels: Labels) -> Float[Array, ""]:
    """The mean over the batch, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class LossOfAttacked:
    """The loss of a recipe that is all in its attack."""

    def loss(self, forward: Forward, batch: Batch, key: PRNGKeyArray) -> LossOf:
        """The cross-entropy of the attacked images, and their logits."""
        logits = forward(batch.attacked, key).logits
        return cross_entropy(logits, batch.labels), logits


def kl_divergence(reference: Logits, logits: Logits) -> Float[Array, ""]:
    r""":math:`\mathrm{KL}(\mathrm{softmax}(r) \| \mathrm{softmax}(z))`, the mean."""
    return optax.kl_divergence(
        jax.nn.log_softmax(logits), jax.nn.softmax(reference)
    ).mean()


def require_epsilon(recipe: Any) -> None:
    """Raises a `ValueError` unless the recipe's epsilon is a radius."""
    require_number(recipe, "epsilon", "[0, 1]")
