"""Which cells an evaluation measures, and what they are called."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from splic_jax.transforms import TransformConfig, returns_images
from train.threats.attackers import AttackSettings, applies

# A cell by defence, threat and attack.
Name = tuple[str, str, str]
# Ends the words for an attack whose images were saved.
EIGHT_BITS = ", rounded to 8 bits"


def planned(
    defenses: Mapping[str, TransformConfig | None],
    threats: Sequence[str],
    attacks: Mapping[str, AttackSettings],
    surrogate: bool,
) -> Iterator[tuple[str, TransformConfig | None, str, AttackSettings]]:
    """The cells of `evaluate`, in order: defence, its settings, threat and attack.

    Left out: black-box without a surrogate, and gray-box where there is no bare network
    that takes images.
    """
    for defense, config in defenses.items():
        bare = config is None or not returns_images(config)
        for threat in threats:
            if (bare and threat == "gray-box") or (
                threat == "black-box" and not surrogate
            ):
                continue
            if threat == "clean":
                yield defense, config, threat, AttackSettings()
            for name, attack in attacks.items():
                if applies(threat, name, attack, config):
                    yield defense, config, threat, attack


def cell_name(cell: Mapping[str, Any]) -> Name:
    """What identifies a cell in its run: defence, threat and attack."""
    return cell["defense"], cell["threat"], cell["attack"]


def by_name(cells: Iterable[Mapping[str, Any]]) -> dict[Name, dict[str, Any]]:
    """Summaries of an earlier run by their cell, as `cells.evaluate` takes them."""
    return {cell_name(cell): dict(cell) for cell in cells}


def planned_name(
    defense: str,
    config: TransformConfig | None,
    threat: str,
    attack: AttackSettings,
    saved: bool,
) -> Name:
    """The `cell_name` that the summary of a cell will have."""
    words = attack_words(threat, config, attack)
    if saved and threat != "clean":
        words += EIGHT_BITS
    return defense, threat, words


def attack_words(
    threat: str, config: TransformConfig | None, attack: AttackSettings
) -> str:
    """What an attacker runs under a threat, in words; "none" when clean."""
    if threat == "clean":
        return "none"
    words = attack.words()
    if config is None or threat not in ("white-box", "adaptive"):
        return words
    return f"{'BPDA' if attack.derivative == 'bpda' else 'true gradient'} ({words})"
