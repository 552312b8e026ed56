"""`launch.sh` with stubs in place of Python and uv: nothing is installed here."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASH = shutil.which("bash")
# All that the script may count on; no Python and no uv of this machine among them.
TOOLS = (
    "basename bash cat cmp cp dirname env flock grep mkdir mv paste readlink rm sed "
    "sleep"
)

# Notes the call, then does what the script waits for: a version, a new environment.
PYTHON = """#!{bash}
printf -v call '%s\\x1f' "$0" "$PWD" "${{PYTHONPATH:-}}" "$@"
printf '%s\\x1e' "$call" >>"$CALLS"
case "$1 $2 ${{3:-}}" in
"-c import sys; print(sys.executable) ") echo "$0" ;;
"-c "*) echo {version} && exit {too_old} ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-P -m ${{FAILING:-nothing}}") exit "${{STATUS:-1}}" ;;
"-m pip install") sleep "${{PIP_SECONDS:-0}}" && exit "${{PIP_STATUS:-0}}" ;;
esac
"""

UV = """#!{bash}
printf -v call '%s\\x1f' "$0" "$PWD" "" "$@"
printf '%s\\x1e' "$call" >>"$CALLS"
case "$1" in
venv) mkdir -p "${{@: -1}}/bin" && cp "$(command -v python3)" "${{@: -1}}/bin/python" ;;
pip) exit "${{PIP_STATUS:-0}}" ;;
esac
"""


class Call(NamedTuple):
    program: str
    folder: str
    pythonpath: str
    arguments: tuple[str, ...]


class Checkout:
    """A copy of the launcher in a path with spaces, and stubs on its PATH."""

    def __init__(self, folder: pathlib.Path):
        self.root = folder / "a check out"
        self.programs = folder / "bin"
        self.caller = folder / "some where"
        self._log = folder / "calls"
        for made in (self.root / "benchmarks", self.programs, self.caller):
            made.mkdir(parents=True)
        shutil.copy(ROOT / "launch.sh", self.root)
        (self.root / "requirements.txt").write_text("jax==1.2.3\nnumpy==2.0\n")
        (self.root / "requirements-peers.txt").write_text("peer==1.0\n")
        (self.root / "benchmarks" / "gradients.py").touch()
        (self.root / "benchmarks" / "__init__.py").touch()
        for tool in TOOLS.split():
            if path := shutil.which(tool):
                (self.programs / tool).symlink_to(path)
        self.add_python("python3", "3.12.1")

    def add(self, name: str, text: str) -> None:
        program = self.programs / name
        program.write_text(text)
        program.chmod(0o755)

    def add_python(self, name: str, version: str) -> None:
        too_old = int(tuple(map(int, version.split("."))) < (3, 11))
        self.add(name, PYTHON.format(bash=BASH, version=version, too_old=too_old))

    def add_uv(self) -> None:
        self.add("uv", UV.format(bash=BASH))

    def start(self, *arguments: str, script=None, **variables: str) -> subprocess.Popen:
        return subprocess.Popen(
            [script or self.root / "launch.sh", *arguments],
            cwd=self.caller,
            env={"PATH": str(self.programs), "CALLS": str(self._log), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, script=None, **variables: str):
        """Runs the launcher; returns its exit code, output, errors and calls."""
        self._log.unlink(missing_ok=True)
        process = self.start(*arguments, script=script, **variables)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors, self.calls()

    def calls(self) -> list[Call]:
        text = self._log.read_text() if self._log.exists() else ""
        fields = [record.split("\x1f")[:-1] for record in text.split("\x1e")[:-1]]
        return [Call(*record[:3], tuple(record[3:])) for record in fields]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def installs(calls):
    return [call for call in calls if "install" in call.arguments]


def module_runs(calls):
    return [call for call in calls if call.arguments[:2] == ("-P", "-m")]


def wait_for_install(checkout, process):
    while not installs(checkout.calls()):
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ("train.quickstart",)),
        (("--epochs=3",), ("train.quickstart", "--epochs=3")),
        (("quickstart", "--help"), ("train.quickstart", "--help")),
        (("train", "--out=a b", "--"), ("train.train", "--out=a b", "--")),
        (("evaluate", ""), ("train.evaluate", "")),
        (("purify", "*.png"), ("train.purify", "*.png")),
        (("bench", "gradients", "--n=2"), ("benchmarks.gradients", "--n=2")),
    ],
)
def test_commands_and_flags_reach_the_binary(checkout, arguments, expected):
    code, _, _, calls = checkout.run(*arguments)
    (run,) = module_runs(calls)
    assert code == 0
    assert run.arguments[2:] == expected
    assert run.program == f"{checkout.root}/.venv/bin/python"
    # The caller's folder, so that relative paths in flags mean what they say.
    assert run.folder == str(checkout.caller)
    assert run.pythonpath == str(checkout.root)


@pytest.mark.parametrize(
    ("flags", "action"), [((), "build"), (("--serve",), "serve")], ids=str
)
def test_the_documentation_is_built_or_served(checkout, flags, action):
    code, _, _, calls = checkout.run("docs", *flags, "--quiet")
    (run,) = module_runs(calls)
    assert code == 0
    config = f"{checkout.root}/mkdocs.yml"
    expected = ("mkdocs", action, "--strict", "--config-file", config, "--quiet")
    assert run.arguments[2:] == expected


@pytest.mark.parametrize("relative", [True, False])
def test_works_through_links(checkout, relative):
    link = checkout.caller / "my link"
    target = checkout.root / "launch.sh"
    if relative:
        target = pathlib.Path("..", *target.relative_to(checkout.caller.parent).parts)
    link.symlink_to(target)
    again = checkout.caller / "link to it"
    again.symlink_to(link.name)
    code, _, errors, calls = checkout.run("train", script=again)
    assert code == 0, errors
    assert module_runs(calls)[0].pythonpath == str(checkout.root)


def test_installs_once_and_says_so_in_one_line(checkout):
    _, _, errors, calls = checkout.run()
    (install,) = installs(calls)
    assert install.program == f"{checkout.root}/.venv/bin/python"
    assert errors.count("\n") == 1 and "Installing" in errors
    code, _, errors, calls = checkout.run()
    assert (code, errors, installs(calls)) == (0, "", [])
    assert len(calls) == 1


def test_installs_again_when_requirements_change_and_only_then(checkout):
    checkout.run()
    requirements = checkout.root / "requirements.txt"
    requirements.touch()
    assert not installs(checkout.run()[-1])
    requirements.write_text("jax==1.2.4\n")
    code, _, _, calls = checkout.run()
    assert code == 0 and len(installs(calls)) == 1
    assert not [call for call in calls if "venv" in call.arguments]
    assert not installs(checkout.run()[-1])


@pytest.mark.parametrize("with_uv", [False, True])
def test_a_failed_installation_is_started_over(checkout, with_uv):
    if with_uv:
        checkout.add_uv()
    code, _, errors, calls = checkout.run(PIP_STATUS="7")
    assert code == 1
    assert "error: the installation failed" in errors
    assert not module_runs(calls)
    leftover = checkout.root / ".venv" / "half a package"
    leftover.touch()
    code, _, _, calls = checkout.run()
    assert code == 0
    assert len(installs(calls)) == len(module_runs(calls)) == 1
    assert not leftover.exists()


def test_an_interrupted_installation_is_started_over(checkout):
    process = checkout.start("train", PIP_SECONDS="30")
    wait_for_install(checkout, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, _, _, calls = checkout.run("train")
    assert code == 0
    assert len(installs(calls)) == 1


def test_two_launches_install_once(checkout):
    if not shutil.which("flock"):
        pytest.skip("no flock here, and so no lock")
    first = checkout.start(PIP_SECONDS="1")
    wait_for_install(checkout, first)
    second = checkout.start()
    for process in (first, second):
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(installs(checkout.calls())) == 1
    assert len(module_runs(checkout.calls())) == 2


def test_a_foreign_environment_is_kept(checkout):
    mine = checkout.root / ".venv" / "mine"
    mine.parent.mkdir()
    mine.touch()
    assert checkout.run()[0] == 0
    assert mine.exists()


def test_uv_is_used_where_there_is_one(checkout):
    checkout.add_uv()
    code, _, _, calls = checkout.run()
    made, installed = [call for call in calls if call.program.endswith("/uv")]
    assert code == 0
    assert made.arguments[0] == "venv"
    assert made.arguments[-1] == f"{checkout.root}/.venv"
    assert installed.arguments[:2] == ("pip", "install")
    assert f"{checkout.root}/.venv/bin/python" in installed.arguments


def test_an_old_python_is_refused_in_one_line(checkout):
    checkout.add_python("python3", "3.10.13")
    code, output, errors, calls = checkout.run()
    assert (code, output) == (1, "")
    assert errors.count("\n") == 1
    assert "3.11 or newer" in errors and "python3 3.10.13" in errors
    assert not installs(calls) and not (checkout.root / ".venv").exists()


def test_no_python_is_refused_in_one_line(checkout):
    (checkout.programs / "python3").unlink()
    code, _, errors, _ = checkout.run()
    assert code == 1
    assert errors.count("\n") == 1 and "found none" in errors


def test_a_newer_python_under_another_name_is_found(checkout):
    checkout.add_python("python3", "3.10.13")
    checkout.add_python("python3.11", "3.11.0")
    code, _, _, calls = checkout.run()
    assert code == 0
    assert [c.program for c in calls if "venv" in c.arguments] == [
        f"{checkout.programs}/python3.11"
    ]


def test_the_python_named_by_the_user_counts(checkout):
    checkout.add_python("old", "3.9.0")
    code, _, errors, _ = checkout.run(PYTHON="old")
    assert code == 1 and "old 3.9.0" in errors
    checkout.add_python("new", "3.13.0")
    code, _, _, calls = checkout.run(PYTHON=f"{checkout.programs}/new")
    assert code == 0
    assert f"{checkout.programs}/new" in [call.program for call in calls]


def test_the_version_check_runs_on_a_real_python():
    # The stubs do not read the code they are given; this Python does.
    script = (ROOT / "launch.sh").read_text()
    check = script.partition('"$candidate" -c \'')[2].partition("'")[0]
    result = subprocess.run([sys.executable, "-c", check], capture_output=True)
    assert result.returncode == 0
    assert result.stdout.decode().strip() == ".".join(map(str, sys.version_info[:3]))


def test_a_gpu_is_asked_for_once(checkout):
    listed = checkout.root / ".venv" / "installed.txt"
    checkout.run()
    assert "cuda" not in listed.read_text()
    code, _, _, calls = checkout.run(SPLIC_JAX_GPU="1")
    assert code == 0 and len(installs(calls)) == 1
    assert listed.read_text() == "jax[cuda13]==1.2.3\nnumpy==2.0\n"
    assert not installs(checkout.run()[-1])
    assert not installs(checkout.run(SPLIC_JAX_GPU="1")[-1])


def test_an_unknown_command_is_refused_in_one_line(checkout):
    code, output, errors, calls = checkout.run("trian")
    assert (code, output, calls) == (2, "", [])
    assert errors.count("\n") == 1
    for word in "trian quickstart train evaluate purify bench docs test".split():
        assert word in errors


def test_without_a_name_every_benchmark_runs(checkout):
    code, _, _, calls = checkout.run("bench")
    assert code == 0
    assert [run.arguments[2:] for run in module_runs(calls)] == [
        ("benchmarks.gradients",)
    ]


def test_a_benchmark_that_fails_stops_no_other(checkout):
    for name in ("agreement", "gpu"):
        (checkout.root / "benchmarks" / f"{name}.py").touch()
    code, _, errors, calls = checkout.run("bench", FAILING="benchmarks.agreement")
    assert code == 1
    assert errors.splitlines()[-1] == "error: these benchmarks failed: agreement"
    assert [run.arguments[2:] for run in module_runs(calls)] == [
        ("benchmarks.agreement",),
        ("benchmarks.gpu", "--rehearse"),  # without a GPU it can do no more
        ("benchmarks.gradients",),
    ]


def test_interrupting_a_benchmark_ends_all(checkout):
    (checkout.root / "benchmarks" / "agreement.py").touch()
    interrupted = {"FAILING": "benchmarks.agreement", "STATUS": "130"}
    code, _, _, calls = checkout.run("bench", **interrupted)
    assert code == 130
    assert len(module_runs(calls)) == 1


def test_benchmarks_are_listed(checkout):
    code, output, _, calls = checkout.run("bench", "--help")
    assert (code, calls) == (0, [])
    assert output.splitlines()[1:] == ["gradients"]
    code, _, errors, calls = checkout.run("bench", "gradient")
    assert (code, calls) == (2, [])
    assert errors == "error: no benchmark 'gradient'; there are: gradients\n"


@pytest.mark.parametrize("word", ["help", "--help", "-h"])
def test_help_needs_no_environment(checkout, word):
    code, output, _, calls = checkout.run(word)
    assert (code, calls) == (0, [])
    assert "SPLIC_JAX_GPU=1" in output
    assert max(map(len, output.splitlines())) <= 88


def peer_installs(calls):
    return [call for call in installs(calls) if "--no-deps" in call.arguments]


@pytest.mark.parametrize("with_uv", [False, True])
def test_test_installs_what_it_compares_with_once(checkout, with_uv):
    if with_uv:
        checkout.add_uv()
    assert not peer_installs(checkout.run("train")[3])
    code, _, errors, calls = checkout.run("test")
    (call,) = peer_installs(calls)
    assert code == 0 and errors == ""
    assert call.program.endswith(".venv/bin/python")
    assert call.arguments[-1] == str(checkout.root / "requirements-peers.txt")
    assert not peer_installs(checkout.run("test")[3])
    (checkout.root / "requirements-peers.txt").write_text("peer==1.1\n")
    assert peer_installs(checkout.run("test")[3])


def test_test_goes_on_without_what_it_compares_with(checkout):
    checkout.run("train")
    code, _, errors, calls = checkout.run("test", PIP_STATUS="1")
    assert code == 0 and calls[-1].arguments[:2] == ("-m", "pytest")
    assert errors.count("\n") == 1 and "other libraries are skipped" in errors
    assert peer_installs(checkout.run("test")[3])


def test_test_checks_in_the_checkout(checkout):
    code, _, _, calls = checkout.run("test", "-k", "a or b")
    assert code == 0
    runs = [c.arguments for c in calls if c.folder == str(checkout.root)]
    assert runs == [
        ("-m", "ruff", "check", "."),
        ("-m", "ruff", "format", "--check", "."),
        ("-m", "mypy"),
        ("-m", "pytest", "--numprocesses=auto", "--dist=loadfile", "-k", "a or b"),
    ]


@pytest.mark.parametrize("browser", ["there", "installed", "not to be had"])
def test_ci_runs_the_tests_and_then_some_of_the_slow_ones(checkout, browser):
    checkout.run("train")
    (checkout.root / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci" / "run", checkout.root / ".ci")
    if browser == "there":
        checkout.add("chromium", "#!/bin/false\n")
    else:
        status = {"installed": 0, "not to be had": 1}[browser]
        checkout.add("apt-get", f"#!{BASH}\nexit {status}\n")
    code, _, errors, calls = checkout.run(script=script)
    assert code == 0, errors
    assert ("Chromium could not be installed" in errors) == (browser == "not to be had")
    runs = [call.arguments for call in calls if call.arguments[:2] == ("-m", "pytest")]
    options = ("-m", "pytest", "--numprocesses=auto", "--dist=loadfile")
    assert runs == [options, (*options, "--rest=20")]


def test_the_scripts_are_executable():
    for name in ("launch.sh", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK), name
