"""Tests of utils/compilation.py, in processes of their own: JAX's cache is global."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]

# Compiles one program, and says how many programs came from the cache.
PROGRAM = """
import pathlib
import jax
from absl import flags
from train.utils import compilation
from train.utils import errors

def main(argv):
    compilation.keep(pathlib.Path("out") / "compiled")
    hits = []
    jax.monitoring.register_event_listener(
        lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None
    )
    value = jax.jit(lambda x: (x @ x.T).sum())(jax.numpy.full((3, 2), 2.0))
    print(f"{value:g}, {'found' if hits else 'compiled'}")

compilation.define_flag("out/compiled")
errors.run(main)
"""


def start(folder: pathlib.Path, *flags: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, *flags]
    names = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.Popen(
        command,
        cwd=folder,
        env={k: v for k, v in os.environ.items() if "_CACHE_" not in k} | names,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: pathlib.Path, *flags: str, **environment: str) -> str:
    out, err = start(folder, *flags, **environment).communicate()
    assert err == ""
    return out.strip()


def entries(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.glob("**/*") if path.is_file())


def test_the_second_start_compiles_nothing(tmp_path: pathlib.Path) -> None:
    assert run(tmp_path) == "72, compiled"
    assert run(tmp_path) == "72, found"
    made = entries(tmp_path)
    assert made and {path.parent for path in made} == {tmp_path / "out" / "compiled"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [b"", pytest.param(b"no program", marks=pytest.mark.slow)]
)
def test_a_damaged_entry_is_compiled_again(
    tmp_path: pathlib.Path, damage: bytes
) -> None:
    run(tmp_path)
    for path in entries(tmp_path):
        path.write_bytes(damage or path.read_bytes()[: path.stat().st_size // 2])
    assert run(tmp_path) == "72, compiled"


@pytest.mark.slow
def test_a_folder_that_cannot_be(tmp_path: pathlib.Path) -> None:
    (tmp_path / "out").write_text("in the way")
    assert run(tmp_path) == "72, compiled"

    process = start(tmp_path, "--compilation_cache=out/here")
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.startswith("error: --compilation_cache=out/here: ")
    assert err.count("\n") == 1


def test_the_flag_chooses(tmp_path: pathlib.Path) -> None:
    assert run(tmp_path, "--compilation_cache=none") == "72, compiled"
    assert not entries(tmp_path)
    run(tmp_path, "--compilation_cache=mine")
    assert {path.parent.name for path in entries(tmp_path)} == {"mine"}


@pytest.mark.slow
def test_jaxs_own_setting_stands(tmp_path: pathlib.Path) -> None:
    own = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")}
    run(tmp_path, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0", **own)
    assert {path.parent.name for path in entries(tmp_path)} == {"own"}


@pytest.mark.slow
def test_two_at_once(tmp_path: pathlib.Path) -> None:
    processes = [start(tmp_path) for _ in range(2)]
    for process in processes:
        out, err = process.communicate()
        assert out.startswith("72, ") and err == ""
    assert run(tmp_path) == "72, found"
