"""TRADES: accuracy, and a prediction that does not change nearby (Zhang et al.)."""

import dataclasses

import jax
from jaxtyping import PRNGKeyArray

from attacks.losses import kl_from
from splic_jax.fields import require_number
from train.recipes.base import Batch, Forward, Frozen, Images, Labels, LossOf
from train.recipes.losses import cross_entropy, kl_divergence
from train.recipes.pgd import PGD


@dataclasses.dataclass(frozen=True)
class Trades(PGD):
    r"""Cross-entropy of the clean images, and beta times the divergence nearby.

    .. math::
        L(f(x), y) + \beta \max_{\|x' - x\|_\infty \le \epsilon}
        \mathrm{KL}(\mathrm{softmax}(f(x)) \| \mathrm{softmax}(f(x')))

    x' comes from PGD on the same divergence, from a uniform start in the ball; their
    code starts at Gaussian noise of 0.001, with epsilon 0.031 and steps of 0.007. Both
    arguments of the divergence are differentiated.

    Attributes:
        epsilon: radius in pixel values, images being in [0, 1].
        step_size: of a step of PGD, in pixel values; > 0.
        steps: of PGD; >= 1.
        beta: 1/lambda of the paper; >= 0. 6 is theirs for CIFAR-10.

    References:
        Zhang et al. 2019, "Theoretically principled trade-off between robustness and
        accuracy", eq. (5) and algorithm 1.
    """

    steps: int = 10
    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "beta", "[0, inf)")

    def craft(
        self, frozen: Frozen, images: Images, labels: Labels, key: PRNGKeyArray
    ) -> Images:
        clean_key, attack_key = jax.random.split(key)
        divergence = kl_from(frozen.network(images, clean_key))
        return self.attacked(frozen, images, labels, attack_key, divergence)

    def loss(self, forward: Forward, batch: Batch, key: PRNGKeyArray) -> LossOf:
        images, attacked, labels = batch
        clean_key, attacked_key = jax.random.split(key)
        clean = forward(images, clean_key).logits
        moved = forward(attacked, attacked_key).logits
        loss = cross_entropy(clean, labels) + self.beta * kl_divergence(clean, moved)
        return loss, clean
