"""A pytest plugin: which tests run, and in which order.

pytest              all but the slow ones
pytest --all        all
pytest --rest=20    the slow ones alone, those that begin within 20 minutes
"""

import os
import pathlib
import subprocess
import time
from collections import Counter, defaultdict

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MOST_PROCESSES = 4
LATER = "left for another time: the minutes of --rest are over"


def pytest_addoption(parser):
    group = parser.getgroup("splic-jax")
    group.addoption("--all", action="store_true", help="run the slow tests too")
    group.addoption(
        "--rest",
        type=float,
        metavar="MINUTES",
        help="run the slow tests alone, as many as begin within MINUTES, beginning "
        "with another file at each commit",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: left out without --all")
    config.pluginmanager.register(Selection(config), "selection-of-tests")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """A process for each core that this one may use; more than a few only compile."""
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return min(len(cores), MOST_PROCESSES)


class Selection:
    """Leaves out what was not asked for, and says so at the end."""

    def __init__(self, config):
        self.all, self.rest = config.getoption("--all"), config.getoption("--rest")
        if self.rest is not None:
            config.option.loadscopereorder = False  # of pytest-xdist: in our order
        self.worker = getattr(config, "workeroutput", None)
        self.left_out = 0
        self.end = time.monotonic() + 60 * (self.rest or 0)

    def pytest_collection_modifyitems(self, config, items):
        if self.all and self.rest is None:
            return
        slow = [item for item in items if item.get_closest_marker("slow")]
        if self.rest is not None:
            kept = rotated(slow, commit())
        else:
            kept = [item for item in items if item not in set(slow)]
            self.left_out = len(slow)
        gone = set(items) - set(kept)
        config.hook.pytest_deselected(items=[item for item in items if item in gone])
        items[:] = kept

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self):
        if self.rest is not None and time.monotonic() > self.end:
            pytest.skip(LATER)

    def pytest_sessionfinish(self):
        if self.worker is not None:  # of pytest-xdist, which reports to the one below
            self.worker["left_out"] = self.left_out

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        self.left_out = getattr(node, "workeroutput", {}).get("left_out", 0)

    def pytest_terminal_summary(self, terminalreporter):
        later = Counter(
            report.nodeid.partition("::")[0]
            for report in terminalreporter.stats.get("skipped", [])
            if LATER in str(report.longrepr)
        )
        for name, count in later.items():
            terminalreporter.write_line(f"left for another time: {count} of {name}")
        if self.left_out:
            terminalreporter.write_line(
                f"{self.left_out} slow tests left out; --all runs them too"
            )


def rotated(items, commit):
    """The items file by file, beginning with another file at each commit."""
    files = defaultdict(list)
    for item in items:
        files[item.nodeid.partition("::")[0]].append(item)
    names = sorted(files)
    first = int(commit, 16) % max(len(names), 1)
    return [item for name in names[first:] + names[:first] for item in files[name]]


def commit():
    """The checkout's commit in hexadecimal digits, 0 where there is none."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else "0"
