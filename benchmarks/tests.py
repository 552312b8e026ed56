"""The cost of the tests in a fresh clone: with nothing compiled, then once more.

    ./launch.sh bench tests

Clones the checkout's last commit into a temporary folder and runs `./launch.sh test`
there, including the installation, twice; with --slow=true a third time, with the slow
tests. Writes out/tests.json, which is committed as results/tests.json.
"""

import json
import os
import pathlib
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from train.present.terminal import print_rows
from train.records import provenance
from train.records.storing import require_replaceable, write_record
from train.utils import errors
from train.utils.errors import UserError
from train.utils.progress import Progress

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parents[1]


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_bool("slow", False, "also run all tests, the slow ones included")
    flags.DEFINE_string("out", "out/tests.json", "JSON file for the results")


def clone(folder: pathlib.Path) -> None:
    """Clones the checkout's last commit."""
    try:
        command = ["git", "clone", "--quiet", str(ROOT), str(folder)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"this checkout cannot be cloned with git: {error}") from None


def measure(folder: pathlib.Path, *arguments: str) -> dict[str, Any]:
    """Runs `./launch.sh test` in a clone, and returns its cost.

    Raises:
        UserError: if a test fails, with the end of the output.
    """
    costs = folder / "out" / "costs.json"
    costs.parent.mkdir(exist_ok=True)
    # No cache of compiled programs, and none of this process's settings.
    ours = ("JAX_", "XLA_", "PYTHONPATH", "GLIBC_TUNABLES")
    start, before = time.monotonic(), _cpu_seconds()
    done = subprocess.run(
        [folder / "launch.sh", "test", f"--costs={costs}", *arguments],
        env={name: x for name, x in os.environ.items() if not name.startswith(ours)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wall, cpu = time.monotonic() - start, _cpu_seconds() - before
    if done.returncode:
        raise UserError(f"the tests of the last commit fail:\n{done.stdout[-3000:]}")
    found = json.loads(costs.read_text())
    return {
        "cpu_minutes": round(cpu / 60, 2),
        "wall_minutes": round(wall / 60, 2),
        "cpu_minutes_of_pytest": round(found["total"] / 60, 2),
        "cases": found["outcomes"],
        "cpu_seconds_by_folder": found["folders"],
    }


def _cpu_seconds() -> float:
    """CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show(runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the runs as a table."""
    cells = [
        (
            name,
            f"{run['cpu_minutes']:.1f}",
            f"{run['cpu_minutes_of_pytest']:.1f}",
            f"{run['wall_minutes']:.1f}",
            str(run["cases"].get("passed", 0)),
            str(run["cases"].get("skipped", 0)),
        )
        for name, run in runs.items()
    ]
    numbers = ("CPU, min", "of it pytest", "wall, min", "passed", "skipped")
    print_rows("", ("run",), numbers, cells)


def main(argv: Sequence[str]) -> None:
    del argv
    require_replaceable(pathlib.Path(FLAGS.out))
    names = {"cold": (), "warm": (), **({"all": ("--all",)} if FLAGS.slow else {})}
    runs, progress = {}, Progress()
    with tempfile.TemporaryDirectory() as folder:
        checkout = pathlib.Path(folder) / "clone"
        clone(checkout)
        for name, arguments in names.items():
            progress.line(f"running the tests, {name}")
            runs[name] = measure(checkout, *arguments)
    show(runs)
    write_record(
        pathlib.Path(FLAGS.out), {"provenance": provenance.provenance(), "runs": runs}
    )


if __name__ == "__main__":
    define_flags()
    errors.run(main)
