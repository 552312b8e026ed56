"""docs/architecture.md says what is there, and the imports keep to its arrows."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What each package may import of the others.
ARROWS = {
    "splic_jax": set(),
    "attacks": set(),
    "examples": {"splic_jax", "attacks"},
    "train": {"splic_jax", "attacks"},
    "benchmarks": {"splic_jax", "attacks", "train"},
}


def imported(path):
    """The packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", ARROWS)
def test_imports_follow_the_arrows(package):
    files = list((ROOT / package).rglob("*.py"))
    found = {name for path in files for name in imported(path)}
    assert files and found & set(ARROWS) - {package} <= ARROWS[package]


def test_every_path_on_the_page_exists():
    text = (ROOT / "docs" / "architecture.md").read_text()
    paths = set(re.findall(r"`([\w.]+/[\w./]*)`", text))
    modules = re.findall(r"-m ([\w.]+)", text)
    paths |= {f"{module.replace('.', '/')}.py" for module in modules}
    assert len(paths) > 20
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []
