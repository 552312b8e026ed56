"""Feature scattering: the batch is moved away as a whole (Zhang and Wang)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

import attacks
from splic_jax.fields import require_integer, require_number
from train.recipes.base import Batch, Forward, Frozen, Images, Labels, LossOf
from train.recipes.losses import require_epsilon

Features = Float[Array, "n width"]


@dataclasses.dataclass(frozen=True)
class Scattering:
    r"""Smoothed cross-entropy of images whose logits were moved from the batch's.

    The attack needs no label: it makes the optimal transport distance between the
    logits of the batch and those of the moved batch large,

    .. math:: \min_{T \in \Pi} \sum_{ij} T_{ij} (1 - \cos(z_i, z'_j))

    in one step of epsilon from a random start. The label keeps 1 - delta of the
    probability; the other classes share delta. Later attacks found less robustness than
    the paper reports: test with more than PGD.

    Attributes:
        epsilon: radius in pixel values, images being in [0, 1].
        smoothing: delta; in [0, 1].
        regularization: of the transport by its entropy; > 0.
        iterations: of Sinkhorn's algorithm; >= 1.

    References:
        Zhang and Wang 2019, "Defense against adversarial attacks using feature
        scattering-based adversarial training", algorithm 1 and the settings of their
        code for CIFAR-10.
    """

    epsilon: float = 8 / 255
    smoothing: float = 0.5
    regularization: float = 0.01
    iterations: int = 50

    def __post_init__(self) -> None:
        require_epsilon(self)
        require_number(self, "smoothing", "[0, 1]")
        require_number(self, "regularization", "(0, inf)")
        require_integer(self, "iterations")

    def craft(
        self, frozen: Frozen, images: Images, labels: Labels, key: PRNGKeyArray
    ) -> Images:
        if not self.epsilon:
            return images
        clean_key, attack_key = jax.random.split(key)
        reference = frozen.network(images, clean_key)

        def transported(logits, labels):
            del labels
            cost = cosine_cost(reference, logits)
            plan = transport_plan(cost, self.regularization, self.iterations)
            return (plan * cost).sum(axis=0)

        return attacks.pgd(
            frozen.network,
            images,
            labels,
            attack_key,
            epsilon=self.epsilon,
            step_size=self.epsilon,
            steps=1,
            loss=transported,
        ).images

    def loss(self, forward: Forward, batch: Batch, key: PRNGKeyArray) -> LossOf:
        logits = forward(batch.attacked, key).logits
        classes = logits.shape[-1]
        true = jax.nn.one_hot(batch.labels, classes)
        rest = (1 - true) / max(classes - 1, 1)
        smoothed = (1 - self.smoothing) * true + self.smoothing * rest
        return optax.softmax_cross_entropy(logits, smoothed).mean(), logits


def cosine_cost(u: Features, v: Features) -> Float[Array, "n n"]:
    """One minus the cosine of each row of u and each of v; of a zero vector, 1."""

    def unit(x):
        return x / jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)

    return 1 - unit(u) @ unit(v).T


def transport_plan(
    cost: Float[Array, "n m"], regularization: float, iterations: int
) -> Float[Array, "n m"]:
    r"""Sinkhorn's algorithm between uniform weights, in logarithms.

    .. math:: \arg\min_T \sum_{ij} T_{ij} C_{ij} + r \sum_{ij} T_{ij} \log T_{ij}

    The plan is not differentiated: the gradient of the regularised distance is that of
    the cost alone (Danskin's theorem).

    Args:
        cost: C.
        regularization: r, > 0; the smaller, the more iterations it takes.
        iterations: how often rows and columns are scaled.

    Returns:
        T, whose columns sum to 1/m, and its rows to 1/n up to convergence.

    References:
        Cuturi 2013, "Sinkhorn distances: lightspeed computation of optimal transport".
    """
    scores = -jax.lax.stop_gradient(cost) / regularization
    rows, columns = scores.shape

    def scale(plan, _):
        plan -= jax.nn.logsumexp(plan, axis=1, keepdims=True) + jnp.log(rows)
        plan -= jax.nn.logsumexp(plan, axis=0, keepdims=True) + jnp.log(columns)
        return plan, None

    plan, _ = jax.lax.scan(scale, scores, length=iterations)
    return jnp.exp(plan)
