"""The attacks of the evaluation by name, and which threat each belongs to.

`PRESETS` holds two kinds that are never mixed in one column: the paper's settings
(section 3.5: "fgsm", "pgd", "cw") and strong ones.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import jax

from attacks import (
    Attacked,
    autoattack,
    boundary,
    carlini_wagner,
    fgsm,
    pgd,
    quantized,
    spsa,
    square,
)
from splic_jax import method_of
from splic_jax.transforms import TransformConfig
from train.threats.defended import Network, defended


@dataclasses.dataclass(frozen=True)
class AttackSettings:
    """An attack, by default PGD as the paper sets it (section 3.5).

    Attributes:
        epsilon: L-infinity radius in pixel values, images being in [0, 1].
        step_size: of "pgd" in pixel values.
        steps: of "pgd" and "spsa"; of "cw" for each constant; of "boundary"; the
            queries of "square".
        name: the algorithm, one of `ALGORITHMS`.
        restarts: of "pgd", from different starts.
        eot_samples: masks over which "pgd" averages each gradient.
        derivative: of a defence that the attacker knows: "bpda" replaces it by the
            identity (or the defence's own stand-in), "true" is its own.
    """

    epsilon: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 7
    name: str = "pgd"
    restarts: int = 1
    eot_samples: int = 1
    derivative: Literal["bpda", "true"] = "bpda"

    def words(self) -> str:
        """The attack in a few words, with its settings."""
        words = ALGORITHMS[self.name][0].format(steps=self.steps)
        words += f", L-inf {self.epsilon * 255:g}/255"
        if self.name == "pgd":
            words += f", step {self.step_size * 255:g}/255"
        if self.restarts > 1:
            words += f", {self.restarts} restarts"
        if self.eot_samples > 1:
            words += f", EOT over {self.eot_samples} masks"
        return words


PRESETS: Mapping[str, AttackSettings] = {
    "fgsm": AttackSettings(name="fgsm", steps=1),
    "pgd": AttackSettings(),
    "cw": AttackSettings(name="cw", steps=1000),
    "pgd-100": AttackSettings(steps=100, restarts=3),
    "autoattack": AttackSettings(name="autoattack", steps=100),
    "square": AttackSettings(name="square", steps=5000),
    "spsa": AttackSettings(name="spsa", steps=100),
    "boundary": AttackSettings(name="boundary", steps=25_000),
    "gradient": AttackSettings(steps=40, derivative="true"),
    "eot": AttackSettings(steps=40, eot_samples=20),
    "gradient-eot": AttackSettings(steps=40, eot_samples=20, derivative="true"),
    "autoattack-rand": AttackSettings(name="autoattack-rand", steps=100),
}
PAPER = ("fgsm", "pgd", "cw")

_GRADIENTS = ("fgsm", "pgd", "cw", "pgd-100")
ATTACKS_OF: Mapping[str, tuple[str, ...]] = {
    "clean": (),
    "black-box": (*_GRADIENTS, "autoattack"),
    "query": ("square", "spsa", "boundary"),
    "gray-box": (*_GRADIENTS, "autoattack"),
    "white-box": (*_GRADIENTS, "autoattack"),
    "adaptive": ("gradient", "eot", "gradient-eot", "autoattack-rand"),
}
THREATS = tuple(ATTACKS_OF)


def _pgd(*inputs, attack: AttackSettings, **options):
    return pgd(
        *inputs,
        step_size=attack.step_size,
        steps=attack.steps,
        restarts=attack.restarts,
        eot_samples=attack.eot_samples,
        **options,
    )


def _fgsm(*inputs, attack: AttackSettings, **options):
    del attack
    return fgsm(*inputs, **options)


def _with_steps(function, name="steps"):
    def run(*inputs, attack: AttackSettings, **options):
        return function(*inputs, **{name: attack.steps}, **options)

    return run


def _in_ball(function):
    def run(*inputs, attack: AttackSettings, **options):
        return function(*inputs, steps=attack.steps, **options).projected

    return run


def _autoattack(version):
    def run(*inputs, attack: AttackSettings, **options):
        del attack
        return autoattack(*inputs, version=version, **options)

    return run


# Name -> what it is called, and how it runs.
ALGORITHMS: Mapping[str, tuple[str, Callable[..., Attacked]]] = {
    "fgsm": ("FGSM", _fgsm),
    "pgd": ("PGD-{steps}", _pgd),
    "cw": (
        "C&W-5x{steps}, kappa 20, cut to the ball",
        _in_ball(carlini_wagner),
    ),
    "autoattack": ("AutoAttack", _autoattack("standard")),
    "autoattack-rand": ("AutoAttack rand", _autoattack("rand")),
    "square": ("Square, {steps} queries", _with_steps(square, "queries")),
    "spsa": ("SPSA, {steps} steps", _with_steps(spsa)),
    "boundary": ("Boundary, {steps} steps, cut to the ball", _in_ball(boundary)),
}


def attack_batch(
    network: Network,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    first_index: int,
    config: TransformConfig | None,
    attack: AttackSettings,
    eight_bits: bool = False,
) -> Attacked:
    """Attacks the bare network (`config` None), or through its defence.

    With `eight_bits` the images are then rounded as in `attacks.quantized`.
    """
    _, run = ALGORITHMS[attack.name]
    target = defended(network, config, first_index, attack.derivative)
    found = run(
        target,
        images,
        labels,
        key,
        attack=attack,
        epsilon=attack.epsilon,
        first_index=first_index,
    )
    if not eight_bits:
        return found
    # Attacks fold small numbers into their key.
    rounding_key = jax.random.fold_in(key, 2**31 - 1)
    return quantized(
        target, found, images, labels, rounding_key, epsilon=attack.epsilon
    )


def knows_defense(threat: str) -> bool:
    """Whether an attacker runs the defence in their attack."""
    return threat in ("white-box", "query", "adaptive")


def applies(
    threat: str, name: str, attack: AttackSettings, config: TransformConfig | None
) -> bool:
    """Whether an attack of this name makes sense under a threat, to this defence.

    An average over draws needs a random defence, AutoAttack's standard version one that
    is not, and the true derivative one that has it.
    """
    if name not in ATTACKS_OF[threat]:
        return False
    random = config is not None and method_of(config).random
    if threat == "white-box":
        return name != "autoattack" or not random
    if threat != "adaptive":
        return True
    if config is None or random != (name != "gradient"):
        return False
    return attack.derivative == "bpda" or method_of(config).differentiable
