"""Which tests run, and what is said of the others: the plugins in tests/helpers."""

import json
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
import selection

HELPERS = pathlib.Path(selection.__file__).parent
QUICK = """
import subprocess, sys

def test_quick():
    burn = "sum(range(10**7))"
    subprocess.run([sys.executable, "-c", burn], check=True)
"""
SLOW = """
import pytest

@pytest.mark.slow
@pytest.mark.parametrize("i", range(3))
def test_slow(i):
    pass
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "test_quick.py").write_text(QUICK)
    for name in ("one", "two"):
        (tmp_path / f"test_{name}.py").write_text(SLOW)

    # Other plugins take most of the time to import.
    alone = {"PYTHONPATH": str(HELPERS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    plugins = [x for name in ("xdist", "selection", "costs") for x in ("-p", name)]

    def run(*flags):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, *flags],
            cwd=tmp_path,
            env=os.environ | alone,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


SLOW_WITH = [0, pytest.param(2, marks=pytest.mark.slow)]  # processes of pytest-xdist


@pytest.mark.parametrize("processes", SLOW_WITH)
def test_slow_tests_are_left_out_and_counted(run, processes):
    text = run(f"-n{processes}")
    assert "6 slow tests left out; --all runs them too" in text
    assert " 1 passed" in text


def test_all_of_them_run(run):
    text = run("--all")
    assert " 7 passed" in text and "left out" not in text


@pytest.mark.parametrize("processes", SLOW_WITH)
def test_the_rest_is_the_slow_ones(run, processes):
    assert " 6 passed" in run("--rest=1", f"-n{processes}", "--dist=loadfile")


def test_what_does_not_begin_in_time_is_named(run):
    text = run("--rest=0")
    assert " 6 skipped" in text
    for name in ("one", "two"):
        assert f"left for another time: 3 of test_{name}.py" in text


@pytest.mark.parametrize("processes", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_costs_are_those_of_the_files(run, tmp_path, processes):
    run(f"-n{processes}", "--all", "--costs=costs.json")
    found = json.loads((tmp_path / "costs.json").read_text())
    assert found["outcomes"] == {"passed": 7}
    assert set(found["files"]) == {"test_quick.py", "test_one.py", "test_two.py"}
    # Nearly all of it in a process that a test started.
    assert 0.05 < found["files"]["test_quick.py"] < found["total"]
    assert found["folders"][""] == pytest.approx(sum(found["files"].values()), abs=0.2)


def test_each_commit_begins_with_another_file():
    items = [
        SimpleNamespace(nodeid=f"tests/test_{name}.py::test_{i}")
        for name in "bca"
        for i in range(2)
    ]
    firsts = set()
    for commit in ("0", "1", "2", "f" * 40):
        order = selection.rotated(items, commit)
        assert sorted(map(id, order)) == sorted(map(id, items))
        files = [item.nodeid.partition("::")[0] for item in order]
        assert files[::2] == files[1::2], "the tests of a file stay together"
        firsts.add(files[0])
    assert len(firsts) == 3


def test_a_folder_without_a_commit_has_a_first_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert selection.commit() == "0"
