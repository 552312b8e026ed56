"""Triplet loss adversarial training (Mao et al.)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from splic_jax.fields import require_choice, require_number
from train.recipes.base import Batch, Forward, Labels, LossOf
from train.recipes.losses import cross_entropy
from train.recipes.pgd import PGD

Features = Float[Array, "n width"]


@dataclasses.dataclass(frozen=True)
class Triplet(PGD):
    r"""PGD training, and features of a class that lie closer than those of another.

    .. math::
        L(f(x'), y) + \sum_p \lambda_1 \mathrm{mean} [D(a, p) - D(a, n) + \alpha]_+
        + \lambda_1 \lambda_2 \mathrm{mean} (a^2 + p^2 + n^2)

    with the features a of the attacked image (the anchor), p of the clean image and of
    another clean one of its class (the positives), n of a clean image of another class
    (the negative), and :math:`D(u, v) = 1 - |\cos(u, v)|`. All are of this batch, where
    their code searches the negative in another, larger one.

    Attributes:
        epsilon, step_size, steps: as in `PGD`.
        triplet_weight: lambda_1; >= 0.
        norm_weight: lambda_2; >= 0.
        margin: alpha; >= 0.
        negatives: "hardest" takes the nearest to the attacked image; "semi-hard" the
            nearest of those farther than the clean image, or else the farthest;
            "random" any.
        anchor: "attacked", or "clean" to switch anchor and positive.

    References:
        Mao et al. 2019, "Metric learning for adversarial robustness", eq. (5) and the
        settings of their code for CIFAR-10.
    """

    triplet_weight: float = 2.0
    norm_weight: float = 1e-3
    margin: float = 0.03
    negatives: Literal["hardest", "semi-hard", "random"] = "hardest"
    anchor: Literal["attacked", "clean"] = "attacked"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("triplet_weight", "norm_weight", "margin"):
            require_number(self, name, "[0, inf)")
        require_choice(self, "negatives", ("hardest", "semi-hard", "random"))
        require_choice(self, "anchor", ("attacked", "clean"))

    def loss(self, forward: Forward, batch: Batch, key: PRNGKeyArray) -> LossOf:
        images, attacked, labels = batch
        keys = jax.random.split(key, 4)
        logits, moved = forward(attacked, keys[0])
        _, clean = forward(images, keys[1])
        other = labels[:, None] != labels
        found = nearest_negative(
            similarity(moved[:, None], clean), other, self.negatives, keys[2]
        )
        # With one class in the batch there is none.
        exists = other.any(axis=1)
        total = cross_entropy(logits, labels)
        for positive in (clean, clean[same_class(labels, keys[3])]):
            pair = (moved, positive)
            anchor, other_side = pair if self.anchor == "attacked" else pair[::-1]
            total += self.triplet_weight * triplet_loss(
                anchor, other_side, clean[found], exists, self.margin, self.norm_weight
            )
        return total, logits


@dataclasses.dataclass(frozen=True)
class RandomNegative(Triplet):
    """TLA-RN of the paper: any image of another class is the negative."""

    negatives: Literal["hardest", "semi-hard", "random"] = "random"


@dataclasses.dataclass(frozen=True)
class SwitchedAnchor(Triplet):
    """TLA-SA of the paper: the clean image is the anchor, the attacked the positive."""

    anchor: Literal["attacked", "clean"] = "clean"


def similarity(u: Features, v: Features) -> Float[Array, "..."]:
    """The absolute cosine; of a zero vector, 0."""

    def unit(x):
        return x / jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-20)

    return jnp.abs((unit(u) * unit(v)).sum(axis=-1))


def triplet_loss(
    anchor: Features,
    positive: Features,
    negative: Features,
    exists: Bool[Array, " n"],
    margin: float,
    norm_weight: float,
) -> Float[Array, ""]:
    """The sum of `Triplet`'s formula without lambda_1, where a negative exists."""
    gap = similarity(anchor, negative) - similarity(anchor, positive) + margin
    norms = jnp.square(anchor) + jnp.square(positive) + jnp.square(negative)
    hinge = jnp.where(exists, jax.nn.relu(gap), 0)
    return hinge.mean() + norm_weight * norms.mean()


def nearest_negative(
    similar: Float[Array, "n n"],
    other: Bool[Array, "n n"],
    how: str,
    key: PRNGKeyArray,
) -> Int[Array, " n"]:
    """The index of each image's negative.

    Args:
        similar: of each attacked image (row) to each clean one (column).
        other: where they are of different classes.
        how: as `Triplet.negatives`.
        key: of the random choice.
    """
    if how == "random":
        similar = jax.random.uniform(key, similar.shape)
    elif how == "semi-hard":
        farther = other & (similar < jnp.diagonal(similar)[:, None])
        none = ~farther.any(axis=1, keepdims=True)
        similar = jnp.where(none, -similar, jnp.where(farther, similar, -jnp.inf))
    return jnp.where(other, similar, -jnp.inf).argmax(axis=1)


def same_class(labels: Labels, key: PRNGKeyArray) -> Int[Array, " n"]:
    """The index of another image of each one's class; its own where there is none."""
    count = len(labels)
    same = (labels[:, None] == labels) & ~jnp.eye(count, dtype=bool)
    drawn = jnp.where(same, jax.random.uniform(key, same.shape), -jnp.inf)
    return jnp.where(same.any(axis=1), drawn.argmax(axis=1), jnp.arange(count))
