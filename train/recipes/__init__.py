"""Training recipes: each is a loss and a batch step for the one loop in `train.train`.

`RECIPES` has them by the name that --adversarial takes, with their default numbers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from train.recipes.alp import LogitPairing
from train.recipes.base import Batch, Forward, Frozen, Outputs, Recipe
from train.recipes.ensemble import Ensemble
from train.recipes.fast import Fast
from train.recipes.pgd import PGD
from train.recipes.scattering import Scattering
from train.recipes.tla import RandomNegative, SwitchedAnchor, Triplet
from train.recipes.trades import Trades
from train.recipes.vanilla import Vanilla

__all__ = [
    "RECIPES",
    "Batch",
    "Forward",
    "Frozen",
    "Outputs",
    "Recipe",
    "as_dict",
    "from_dict",
    "name_of",
]

RECIPES: Mapping[str, Recipe] = {
    "none": Vanilla(),
    "fast": Fast(),
    "pgd": PGD(),
    "trades": Trades(),
    "alp": LogitPairing(),
    "tla": Triplet(),
    "tla-rn": RandomNegative(),
    "tla-sa": SwitchedAnchor(),
    "ensemble": Ensemble(),
    "scattering": Scattering(),
}


def name_of(recipe: Recipe) -> str:
    """The name of a recipe in `RECIPES`, by its type.

    Raises:
        ValueError: for something else.
    """
    for name, each in RECIPES.items():
        if type(each) is type(recipe):
            return name
    raise ValueError(f"adversarial must be a training recipe, got {recipe!r}")


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, with its name."""
    return {"recipe": name_of(recipe), **dataclasses.asdict(recipe)}


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """The inverse of `as_dict`.

    Raises:
        ValueError: for an unknown recipe, or a value that makes no sense.
        TypeError: for a setting it does not have.
    """
    values = dict(values)
    name = values.pop("recipe")
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    return dataclasses.replace(RECIPES[name], **values)
