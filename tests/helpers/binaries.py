"""Runs a binary of `train` or `benchmarks` within the test's own process.

    done = binaries.run("train.purify", "--input=a.png", "--output=b.png", cwd=folder)
    assert done.returncode == 0, done.stderr

Starting a process takes seconds and shares nothing; here what is compiled stays. All
else is as for a user: flags are parsed, output is text, the exit code is a number. An
error that is not the user's goes on to the test.
"""

import contextlib
import importlib
import io
import logging
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import jax
from absl import flags
from absl import logging as absl_logging

from train.utils import errors

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Done(NamedTuple):
    """What became of a run, under the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def run(module: str, *arguments: object, cwd: pathlib.Path = ROOT) -> Done:
    """Runs ``python -m module arguments`` in the folder `cwd`, in this process."""
    binary = importlib.import_module(module)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        only_flags_of(binary),
        _logging_as_before(),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", [module, *map(str, arguments)]),
        _as_main(binary),
        warnings.catch_warnings(),
    ):
        try:
            errors.run(binary.main)
        except SystemExit as end:
            code = end.code or 0
    return Done(code, out.getvalue(), err.getvalue())


def start(module: str, *arguments: object, cwd: pathlib.Path = ROOT) -> Done:
    """The same in a process of its own, for what only that can show."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def _as_main(binary) -> Iterator[None]:
    """The binary is the main module, as results record it.

    Other modules stay as they are: PyTorch's cannot be imported a second time.
    """
    before = sys.modules["__main__"]
    sys.modules["__main__"] = binary
    try:
        yield
    finally:
        sys.modules["__main__"] = before


@contextlib.contextmanager
def only_flags_of(binary) -> Iterator[None]:
    """Defines a binary's flags alone; what others have defined is back afterwards.

    So is the folder of compiled programs, which a flag may change.
    """
    found, compiled = flags.FLAGS, jax.config.jax_compilation_cache_dir

    def own() -> dict[str, flags.Flag]:
        # Others are defined once, when a package is imported.
        modules = {x: found.find_module_defining_flag(x) or "" for x in found}
        ours = ("train.", "benchmarks.")
        return {x: found[x] for x in found if modules[x].startswith(ours)}

    others = own()
    modules = {name: found.find_module_defining_flag(name) for name in others}
    found.remove_flag_values(others)
    try:
        binary.define_flags()
        yield
    finally:
        found.remove_flag_values(own())
        for name, flag in others.items():
            found[name] = flag
            found.register_flag_by_module(modules[name], flag)
        found.unparse_flags()
        jax.config.update("jax_compilation_cache_dir", compiled)


@contextlib.contextmanager
def _logging_as_before() -> Iterator[None]:
    root, verbosity = logging.getLogger(), absl_logging.get_verbosity()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        absl_logging.set_verbosity(verbosity)
