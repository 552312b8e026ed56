"""Ensemble adversarial training: attacks from other networks (Tramer et al.)."""

import dataclasses
from functools import partial

import jax
from jaxtyping import PRNGKeyArray

import attacks
from train.recipes.base import Batch, Forward, Frozen, Images, Labels, LossOf
from train.recipes.losses import cross_entropy, require_epsilon


@dataclasses.dataclass(frozen=True)
class Ensemble:
    r"""Cross-entropy of the images, and of FGSM's images on one of several networks.

    .. math:: \tfrac{1}{2} (L(f(x), y) + L(f(x'), y))

    The network that FGSM attacks is drawn for each batch: one of those trained before,
    or the one in training. FGSM moves away from the class that network names, not from
    the label, which the attacked image would give away ("label leaking"). The networks
    trained before are attacked bare, without an input transform.

    Attributes:
        epsilon: radius in pixel values, images being in [0, 1].
        networks: folders of the runs that trained them; may be none.

    References:
        Tramer et al. 2018, "Ensemble adversarial training: attacks and defenses",
        section 3.4.
    """

    epsilon: float = 8 / 255
    networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_epsilon(self)
        # JSON has only lists.
        object.__setattr__(self, "networks", tuple(self.networks))

    def craft(
        self, frozen: Frozen, images: Images, labels: Labels, key: PRNGKeyArray
    ) -> Images:
        del labels
        draw_key, named_key, attack_key = jax.random.split(key, 3)

        def attack(logits_fn):
            named = logits_fn(images, named_key).argmax(axis=-1)
            return attacks.fgsm(
                logits_fn, images, named, attack_key, epsilon=self.epsilon
            ).images

        sources = [*frozen.static, frozen.network]
        drawn = jax.random.randint(draw_key, (), 0, len(sources))
        return jax.lax.switch(drawn, [partial(attack, source) for source in sources])

    def loss(self, forward: Forward, batch: Batch, key: PRNGKeyArray) -> LossOf:
        images, attacked, labels = batch
        clean_key, attacked_key = jax.random.split(key)
        clean = forward(images, clean_key).logits
        moved = forward(attacked, attacked_key).logits
        loss = (cross_entropy(clean, labels) + cross_entropy(moved, labels)) / 2
        return loss, moved
