"""Functions of the user's own, named as `FILE_OR_MODULE:NAME`.

net.py:logits           of a file
my_package.nets:load    of a module that Python finds, also from the current folder
"""

import hashlib
import importlib
import importlib.util
import inspect
import pathlib
import sys
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from train.utils.errors import UserError


class Imported(NamedTuple):
    """A function from images to logits that somebody else wrote.

    Attributes:
        name: as results call it: a file without its folder, or the module; the name.
        source: the file that it comes from.
        sha256: the checksum of that file.
        function: images -> logits, not yet checked.
    """

    name: str
    source: str
    sha256: str
    function: Callable[[jax.Array], Any]


def import_function(
    spec: str, weights: Mapping[str, np.ndarray] | None, said: str | None = None
) -> Imported:
    """Imports the function, or makes it with the factory that the name belongs to.

    A name is a factory if there are weights, which it is given, or if it takes no
    arguments. A Flax NNX module is put into evaluation mode.

    Args:
        spec: its place and name.
        weights: arrays by name, or None.
        said: the flag that asks for it, for messages; by default --network.

    Raises:
        UserError: if there is none, or what it executes fails.
    """
    said = said or f"--network={spec}"
    place, colon, name = spec.rpartition(":")
    if not (colon and place and name):
        raise UserError(f"{said} is not FILE_OR_MODULE:NAME, as net.py:load")
    is_file = place.endswith(".py") or "/" in place
    module = (_import_file if is_file else _import_module)(place, said)
    source = str(module.__file__)
    try:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise UserError(f"{said}: {place} has no {name!r}") from None
    if not callable(found):
        raise UserError(f"{said}: {name} is no function")
    if weights is not None or _takes_nothing(found):
        given = [] if weights is None else [dict(weights)]
        try:
            found = found(*given)
        except Exception as error:
            raise UserError(
                f"{said}: {name}({'weights' if given else ''}) fails: "
                f"{explained(error, source)}"
            ) from error
        if not callable(found):
            hint = ""
            if given:
                hint = "; with weights it is load(weights), which returns one"
            raise UserError(
                f"{said}: {name} returns {type(found).__name__}, not a "
                f"function of images{hint}"
            )
    if isinstance(found, nnx.Module):
        found.eval()
    if (count := _required(found)) > 1:
        raise UserError(
            f"{said}: the function takes {count} arguments; it must take "
            "images alone, and return logits (neither labels nor a loss)"
        )
    digest = hashlib.sha256(pathlib.Path(source).read_bytes()).hexdigest()
    shown = f"{pathlib.Path(place).name if is_file else place}:{name}"
    return Imported(shown, source, digest, found)


def explained(error: Exception, source: str) -> str:
    """An error of the user's code in one line, with the place in their file."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == source
    ]
    where = f" (line {lines[-1]} of {pathlib.Path(source).name})" if lines else ""
    text = " ".join(str(error).split("\n\n")[0].split())
    if len(text) > 200:
        text = f"{text[:200]} ..."
    return f"{type(error).__name__}: {text}{where}"


def _import_file(place: str, said: str) -> ModuleType:
    path = pathlib.Path(place).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{said}: no file {place}")
    # Classes look for their module by its name; no other module has this one.
    name = f"network_in_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{said}: {place} is no Python file")
    module = importlib.util.module_from_spec(spec)
    _search(path.parent)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(
            f"{said}: {place} fails: {explained(error, str(path))}"
        ) from error
    return module


def _import_module(name: str, said: str) -> ModuleType:
    _search(pathlib.Path.cwd())
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise UserError(
            f"{said}: cannot import {name}: {type(error).__name__}: {error}"
        ) from error
    if not getattr(module, "__file__", None):
        raise UserError(f"{said}: {name} is no module with a file")
    return module


def _search(folder: pathlib.Path) -> None:
    """Lets Python import from a folder too, after all others."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _parameters(function: Callable) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # of a function that is not written in Python
        return None


def _takes_nothing(function: Callable) -> bool:
    return _parameters(function) == []


def _required(function: Callable) -> int:
    """How many arguments a call must have."""
    return sum(
        x.default is x.empty and x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)
        for x in _parameters(function) or ()
    )
