"""A pytest plugin: `--costs=FILE` writes what the tests of each file cost, as JSON.

Costs are CPU seconds of the process that runs a test, all its threads, and of the
processes that the test started. A fixture counts to the test that needs it first.
"""

import json
import os
import pathlib
from collections import Counter

import pytest


def pytest_addoption(parser):
    parser.getgroup("splic-jax").addoption(
        "--costs", metavar="FILE", help="write what each file's tests cost, as JSON"
    )


def pytest_configure(config):
    if config.getoption("--costs"):
        config.pluginmanager.register(Costs(config), "costs-of-tests")


def cpu_seconds():
    """Of this process and of those of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Costs:
    """Adds up; where pytest-xdist runs the tests, what its workers report."""

    def __init__(self, config):
        self.path = pathlib.Path(config.getoption("--costs"))
        self.worker = getattr(config, "workeroutput", None)
        self.last = 0.0
        self.files, self.outcomes = Counter(), Counter()
        self.total = 0.0  # of pytest-xdist's workers, beside which the rest is nothing

    def pytest_collection_finish(self):
        self.last = cpu_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        report = yield
        now = cpu_seconds()
        report.cpu_seconds, self.last = now - self.last, now
        return report

    def pytest_runtest_logreport(self, report):
        self.files[report.nodeid.partition("::")[0]] += report.cpu_seconds
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] += 1

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        self.total += getattr(node, "workeroutput", {}).get("cpu_seconds", 0.0)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self):
        if self.worker is not None:
            self.worker["cpu_seconds"] = cpu_seconds()
            return
        folders = Counter()
        for name, seconds in self.files.items():
            folders[os.path.dirname(name)] += seconds
        found = {
            "total": self.total or cpu_seconds(),
            "outcomes": self.outcomes,
            "folders": _rounded(folders),
            "files": _rounded(self.files),
        }
        self.path.write_text(json.dumps(found, indent=1) + "\n")


def _rounded(seconds):
    return {name: round(each, 1) for name, each in seconds.most_common()}
