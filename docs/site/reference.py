"""Writes the reference: a page for each public module, from what it exports.

Public are the packages, their sub-packages that have an `__all__`, the modules they
export, and those of `MODULES`. Each object is documented on one page, that of the
innermost of them, and listed on the others.
"""

import functools
import importlib
import inspect
import pkgutil
import types

from mkdocs.structure.files import File

PACKAGES = ("splic_jax", "attacks")
MODULES = ("splic_jax.certificate",)


def on_config(config):
    (section,) = (entry for entry in config.nav if "Reference" in entry)
    section["Reference"] = [{name: _address(name)} for name in public_modules()]
    return config


def on_files(files, config):
    for name in public_modules():
        files.append(File.generated(config, _address(name), content=_page(name)))
    return files


@functools.cache
def public_modules() -> tuple[str, ...]:
    """The names of the public modules, sorted by package."""
    found = [*PACKAGES, *MODULES]
    for package in map(importlib.import_module, PACKAGES):
        prefix = f"{package.__name__}."
        found += [
            module.name
            for module in pkgutil.walk_packages(package.__path__, prefix)
            if module.ispkg and hasattr(importlib.import_module(module.name), "__all__")
        ]
        found += [
            value.__name__
            for name, value in vars(package).items()
            if isinstance(value, types.ModuleType)
            and f"import {name} as {name}" in inspect.getsource(package)
        ]
    first = {package: number for number, package in enumerate(PACKAGES)}
    return tuple(sorted(set(found), key=lambda name: (first[name.split(".")[0]], name)))


def public_names(module: types.ModuleType) -> list[str]:
    """What a module exports: its `__all__`, or what it has that is not private."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    is_package = hasattr(module, "__path__")
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and (is_package or getattr(value, "__module__", None) == module.__name__)
    ]


@functools.cache
def homes() -> dict[str, str]:
    """The page of each object: the innermost public module that exports it."""
    found: dict[str, str] = {}
    for name in sorted(public_modules(), key=lambda name: name.count(".")):
        module = importlib.import_module(name)
        found |= {_identifier(module, public): name for public in public_names(module)}
    return found


def _page(name):
    module = importlib.import_module(name)
    about = inspect.getdoc(module).split("\n\n")[0]
    lines = [f"# `{name}`", "", about, "", "| | |", "| --- | --- |"]
    entries = []
    for public in public_names(module):
        identifier = _identifier(module, public)
        home = homes()[identifier]
        page = "" if home == name else f"{home}.md"
        about = _first_sentence(getattr(module, public))
        lines.append(f"| [`{public}`]({page}#{identifier}) | {about} |")
        if home == name:
            entries += ["", f"::: {identifier}", "    options:"]
            entries += [f"      heading: {name}.{public}", f"      toc_label: {public}"]
    return "\n".join([*lines, *entries, ""])


def _address(name):
    return f"reference/{name}.md"


def _identifier(module, public):
    """Where an object is defined, as far as it says so."""
    value = getattr(module, public)
    if inspect.isroutine(value) or inspect.isclass(value):
        return f"{value.__module__}.{value.__qualname__}"
    return f"{module.__name__}.{public}"


def _first_sentence(value):
    if not (inspect.isroutine(value) or inspect.isclass(value)):
        return ""
    paragraph = (inspect.getdoc(value) or "").split("\n\n")[0]
    return paragraph.replace("\n", " ").replace("|", "\\|")
