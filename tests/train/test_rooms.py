"""The rooms of `train`: who may import whom."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# From the bottom up: a room imports from those before it. The binaries are above all.
ROOMS = (
    "utils records data flags models threats recipes training networks "
    "present files evaluation demonstrations reproductions"
).split()
BINARIES = {
    path.stem
    for path in (ROOT / "train").glob("*.py")
    if path.stem not in ("__init__", *ROOMS)
}
FILES = sorted(
    path
    for folder in ("train", "benchmarks", "splic_jax", "attacks")
    for path in (ROOT / folder).rglob("*.py")
)


def rooms_imported(path):
    """The rooms and binaries of `train` that a file imports from, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("train.")}
    return found


def test_every_room_is_known():
    folders = {path.parent.name for path in (ROOT / "train").glob("*/*.py")}
    assert folders | {"flags"} == set(ROOMS)
    assert {"train", "evaluate", "purify", "reproduce", "quickstart"} <= BINARIES


@pytest.mark.parametrize(
    "path", FILES, ids=[path.relative_to(ROOT).as_posix() for path in FILES]
)
def test_imports_go_one_way(path):
    imported = rooms_imported(path)
    assert not imported & BINARIES, "a binary is no library"
    place = path.relative_to(ROOT).with_suffix("").parts
    if place[0] in ("splic_jax", "attacks"):
        assert not imported
    elif place[0] == "train" and place[1] in ROOMS:
        assert imported <= set(ROOMS[: ROOMS.index(place[1]) + 1])
