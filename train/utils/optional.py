"""Packages that only some of the binaries need, imported where they are used."""

import importlib
from typing import Any

from train.utils.errors import UserError


def require(name: str) -> Any:
    """The module of this name; a `UserError` where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"this needs the package {name}, which cannot be imported ({error}); "
            "requirements.txt lists it"
        ) from error
