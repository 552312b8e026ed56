"""The networks of the tables and figures, each by name, and the rows they stand in."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from splic_jax import METHODS, SPLICConfig, method_of
from splic_jax.transforms import TransformConfig
from train.recipes import RECIPES, Recipe
from train.recipes.fast import Fast
from train.reproductions.scales import Scale
from train.training.settings import TrainSettings


class Row(NamedTuple):
    """A method of the tables: the network, and the transform before it or None."""

    network: str
    defense: str | None


VANILLA, SURROGATE = "vanilla", "surrogate"
# The paper's names of the methods that come with a network of their own.
ROWS: Mapping[str, Row] = {
    "Vanilla": Row(VANILLA, None),
    "Madry": Row("madry", None),
    "Thermometer": Row("thermometer", "thermometer"),
    "TLA-RN": Row("tla_rn", None),
    "TLA-SA": Row("tla_sa", None),
    "TLA": Row("tla", None),
    "TV Minimization": Row("tv_minimisation", "tv_minimisation"),
    "ME-Net": Row("me_net", "nuclear_norm"),
    "SPLIC": Row("splic", "splic"),
    # Not the paper's: its white-box rivals are adversarially trained, SPLIC is not.
    "SPLIC + PGD": Row("splic_pgd", "splic"),
    "ME-Net, USVT": Row("me_net_usvt", "usvt"),
    "Fast AT": Row("fast_at", None),
    "SPLIC + Fast AT": Row("splic_fast_at", "splic"),
}
# Cheaper ones, for a scale that names its rows.
_OTHERS = ("ME-Net, USVT", "Fast AT", "SPLIC + Fast AT")
# The methods of Tables 3 and 4, which stand before the network Vanilla.
UNTRAINED: Mapping[str, TransformConfig] = {
    "USVT": METHODS["usvt"].config,
    "Soft-Imp": METHODS["soft_impute"].config,
    "ME-Net": METHODS["nuclear_norm"].config,
    "SPLIC": METHODS["splic"].config,
    "SPLIC, lambda as printed": SPLICConfig.paper(),
    "TV minimisation": METHODS["tv_minimisation"].config,
    "JPEG": METHODS["jpeg"].config,
    "SRF": METHODS["splic_no_tv"].config,
}
_RECIPES = {
    "madry": "pgd",
    "tla_rn": "tla-rn",
    "tla_sa": "tla-sa",
    "tla": "tla",
    "splic_pgd": "pgd",
    "fast_at": "fast",
    "splic_fast_at": "fast",
}
_DEFENSES = {row.network: row.defense for row in ROWS.values()} | {
    "bilateral": "bilateral",
    "guided": "guided",
}
_TV_WEIGHT = "splic_tv_weight_"
# ME-Net's recipe for its white-box results: keep probabilities from 0.4 to 0.6.
_KEEP_RANGE = (0.4, 0.6)


def rows_of(scale: Scale) -> list[str]:
    """The rows of `ROWS` that the tables have at a scale."""
    return list(scale.rows) or [row for row in ROWS if row not in _OTHERS]


def config_of(defense: str | None) -> TransformConfig | None:
    """A transform's default settings; None for no transform."""
    return None if defense is None else METHODS[defense].config


def of_tv_weight(value: float) -> str:
    """The name of the network trained behind SPLIC with this weight."""
    default = METHODS["splic"].config.tv_weight
    return "splic" if value == default else f"{_TV_WEIGHT}{value:g}"


def training_settings(network: str, scale: Scale, seed: int) -> TrainSettings:
    """How a network is trained.

    Raises:
        KeyError: for an unknown name.
    """
    settings = TrainSettings(
        model=scale.model,
        epochs=scale.epochs,
        batch_size=scale.batch_size,
        learning_rate=scale.learning_rate,
        compute_dtype=scale.compute_dtype,
        seed=seed,
    )
    if network == SURROGATE:
        return dataclasses.replace(settings, model=scale.surrogate, seed=seed + 1)
    if network.startswith(_TV_WEIGHT):
        weight = float(network.removeprefix(_TV_WEIGHT))
        config = dataclasses.replace(METHODS["splic"].config, tv_weight=weight)
        return dataclasses.replace(settings, defense=config)
    settings = dataclasses.replace(
        settings,
        defense=config_of(_DEFENSES[network]),
        adversarial=_recipe(network, scale),
    )
    if settings.defends_in_step:
        epochs = scale.epochs_in_step or scale.epochs
        return dataclasses.replace(settings, epochs=epochs)
    masks = scale.masks_per_image
    if network.startswith("me_net"):
        return dataclasses.replace(
            settings, masks_per_image=masks, keep_range=_KEEP_RANGE
        )
    defense = settings.defense
    if scale.several_masks and defense and method_of(defense).random:
        return dataclasses.replace(settings, masks_per_image=masks)
    return settings


def _recipe(network: str, scale: Scale) -> Recipe:
    if network not in _RECIPES:
        return RECIPES["none"]
    recipe = RECIPES[_RECIPES[network]]
    if isinstance(recipe, Fast):
        return recipe
    return dataclasses.replace(
        recipe, steps=scale.training_steps, step_size=scale.training_step_size
    )
