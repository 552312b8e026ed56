"""The driver of the GPU benchmark: a rehearsal, mistakes, and what is compiled."""

import json
import pathlib
import threading
import time
import types
from importlib import metadata

import binaries
import jax
import pytest

from benchmarks import gpu
from benchmarks._gpu import library, offline
from benchmarks._gpu.context import FILES, Context, Program
from train.utils.errors import UserError

ONLY_COMPILED = [name for name, item in gpu.ITEMS.items() if item.run is None]


@pytest.fixture
def context(tmp_path: pathlib.Path) -> Context:
    out, state = tmp_path / "out", tmp_path / "state"
    return Context(tmp_path, out, state, True, time.monotonic() + 600)


@pytest.fixture(autouse=True)
def _settings_as_before():
    names = (
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
        "jax_include_full_tracebacks_in_locations",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def folders(tmp_path: pathlib.Path) -> tuple[str, str]:
    return f"--out={tmp_path / 'out'}", f"--state={tmp_path / 'state'}"


def one_line(done: binaries.Done) -> str:
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def log_of(tmp_path: pathlib.Path) -> dict:
    return json.loads((tmp_path / "out" / "log.json").read_text())["items"]


@pytest.mark.slow
def test_a_rehearsal_of_everything(tmp_path, folders):
    done = binaries.run("benchmarks.gpu", "--rehearse", *folders)
    assert done.returncode == 0, done.stdout[-3000:]
    log = log_of(tmp_path)
    assert set(log) == set(gpu.ITEMS) - set(ONLY_COMPILED)
    for name, entry in log.items():
        assert "failed" not in entry and "skipped" not in entry, name
        record = json.loads(
            (tmp_path / "out" / f"{gpu.ITEMS[name].record}.json").read_text()
        )
        assert record["provenance"]["versions"]["jax"] == jax.__version__
        assert '"failed' not in json.dumps(record), name
    programs = json.loads((tmp_path / "out" / "log.json").read_text())["programs"]
    assert not [program for program in programs if "failed" in program]


def test_an_unknown_item_is_named(folders):
    done = binaries.run("benchmarks.gpu", "--rehearse", "--items=A,Z", *folders)
    words = one_line(done)
    assert "'Z'" in words and "A, D, E" in words


def test_without_a_gpu_nothing_begins(tmp_path, folders):
    words = one_line(binaries.run("benchmarks.gpu", *folders))
    assert "no GPU" in words and "--rehearse" in words
    assert not any(tmp_path.iterdir())


def test_missing_data_is_named(tmp_path, folders, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    (tmp_path / FILES[0]).touch()
    data = f"--data={tmp_path}"
    words = one_line(binaries.run("benchmarks.gpu", data, *folders))
    assert all(name in words for name in FILES[1:])
    assert FILES[0] not in words
    assert "--items=A,C" in words


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    out = f"--out={tmp_path / 'file' / 'out'}"
    words = one_line(binaries.run("benchmarks.gpu", "--rehearse", "--items=A", out))
    assert str(tmp_path / "file") in words


def items(monkeypatch, **runs):
    """Has the benchmark consist of these items, which take 100 s and no data."""
    table = {
        name: gpu.Item(name, 100, "", name, None, name, data=False) for name in runs
    }
    monkeypatch.setattr(gpu, "ITEMS", table)
    monkeypatch.setattr(gpu, "_module", lambda item: types.SimpleNamespace(**runs))
    return table


def test_an_item_that_fails_stops_no_other(tmp_path, folders, monkeypatch):
    def bad(context):
        raise ValueError("of all things")

    items(monkeypatch, bad=bad, good=lambda context: {"answer": 42})
    done = binaries.run("benchmarks.gpu", "--rehearse", *folders)
    assert done.returncode == 1
    assert "ValueError: of all things" in done.stdout
    assert done.stdout.splitlines()[-1] == "failed: bad"
    log = log_of(tmp_path)
    assert log["bad"]["failed"] == "ValueError: of all things"
    assert "failed" not in log["good"]
    record = json.loads((tmp_path / "out" / "good.json").read_text())
    assert record["answer"] == 42
    assert not (tmp_path / "out" / "bad.json").exists()


def test_what_is_skipped_is_named(tmp_path, folders, monkeypatch):
    table = items(monkeypatch, long=lambda context: {}, short=lambda context: {})
    table["short"] = table["short"]._replace(seconds=0)
    table["none"] = table["short"]._replace(run=None)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    options = "--budget_s=5", "--items=long,short,none"
    done = binaries.run("benchmarks.gpu", *options, *folders)
    assert done.returncode == 0
    log = log_of(tmp_path)
    assert "s were left" in log["long"]["skipped"]
    assert "only compiled" in log["none"]["skipped"]
    assert "skipped" not in log["short"]
    for name in ("long", "none"):
        assert f"{name} skipped: {log[name]['skipped']}" in done.stdout


class Function:
    """In place of one of `jax.jit`; notes when it is compiled."""

    def __init__(self, name, events, before=None):
        self.name, self.events, self.before = name, events, before

    def lower(self):
        return self

    def compile(self):
        self.events.append(f"{self.name} begins")
        if self.before is not None:
            assert self.before.wait(60)
        self.events.append(f"{self.name} ends")


def test_programs_are_compiled_once_and_the_first_of_a_family_first(context):
    events, alone = [], threading.Event()
    first = Program("first", Function("first", events, alone), (), family="f")
    others = [
        Program(name, Function(name, events), (), family="f") for name in ("b", "c")
    ]
    lone = Program("lone", Function("lone", events), ())
    with gpu.Compilers(context, 4) as compiling:
        compiling.submit("X", [first, *others, lone])
        compiling.submit("Y", [lone, first, others[0]])
        compiling.submit("Z", [lone])
        compiling.wait_for("Z")  # nothing of what the family holds up
        assert events.index("lone ends") >= 0 and "first ends" not in events
        alone.set()
        compiling.wait_for("X")
        compiling.wait_for("Y")
    assert sorted(events) == sorted(
        f"{name} {what}"
        for name in ("first", "b", "c", "lone")
        for what in ("begins", "ends")
    )
    for name in ("b", "c"):
        assert events.index("first ends") < events.index(f"{name} begins")
    assert {entry["item"] for entry in compiling.done} == {"X"}


def test_a_program_that_fails_to_compile_is_noted(context, capsys):
    with gpu.Compilers(context, 1) as compiling:
        compiling.submit("X", [Program("none", None, ())])
        compiling.wait_for("X")
    (entry,) = compiling.done
    assert "AttributeError" in entry["failed"]
    assert "X none: AttributeError" in capsys.readouterr().out


def test_a_missing_compiler_is_named(folders, monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(offline.metadata, "version", version)
    words = one_line(binaries.run("benchmarks.gpu", "--compile_for=h100", *folders))
    assert "pip install --no-deps --target DIR" in words
    assert f"jax-cuda13-plugin=={jax.__version__}" in words


PROGRAM = """HloModule jit_f, entry_computation_layout={...}

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %a = f32[4]{0} add(%p, %p)
}

%inner_body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t = (s32[], f32[4]{0}) parameter(0)
  %g = f32[4]{0} get-tuple-element(%t), index=1
  %s = f32[4]{0} custom-call(%g), custom_call_target="solve"
  %f = f32[4]{0} fusion(%s), kind=kLoop, calls=%fused
  ROOT %r = (s32[], f32[4]{0}) tuple(%g, %f)
}

%inner_condition (t: (s32[], f32[4])) -> pred[] {
  %t = (s32[], f32[4]{0}) parameter(0)
  ROOT %c = pred[] fusion(%t), kind=kLoop, calls=%fused
}

%outer_body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t = (s32[], f32[4]{0}) parameter(0)
  %m = (f32[4]{0}, s8[64]{0}) custom-call(%t), custom_call_target="multiply"
  ROOT %w = (s32[], f32[4]{0}) while(%t), condition=%inner_condition, body=%inner_body
}

%outer_condition (t: (s32[], f32[4])) -> pred[] {
  %t = (s32[], f32[4]{0}) parameter(0)
  ROOT %c = pred[] fusion(%t), kind=kLoop, calls=%fused
}

%called (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %b = f32[4]{0} fusion(%p), kind=kLoop, calls=%fused
  ROOT %d = f32[4]{0} copy(%b)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %y = f32[4]{0} call(%x), to_apply=%called
  %z = f32[4]{0} conditional(%x, %y, %y), branch_computations={%called, %fused}
  %m = (f32[4]{0}, s8[64]{0}) custom-call(%z), custom_call_target="multiply"
  %w = (s32[], f32[4]{0}) while(%m), condition=%outer_condition, body=%outer_body, \
backend_config={"known_trip_count":{"n":"7"}}
  ROOT %e = f32[4]{0} get-tuple-element(%w), index=1
}
"""


def test_what_a_program_launches_is_read_off_its_text():
    assert offline.described(PROGRAM) == {
        "operations": 5,  # two of the call, two of the longer branch, and a product
        "fusions": 4,
        "library_calls": {"multiply": 2, "solve": 1},
        "loops": [
            {"times": 7, "operations": 1, "depth": 1},
            {"times": "data dependent", "operations": 3, "depth": 2},
        ],
        "serial_library_calls": {
            "multiply": {"calls": 1, "runs": 7},
            "solve": {"calls": 1, "runs": "data dependent"},
        },
    }


def test_sections_are_kept_beside_each_other(tmp_path):
    path = tmp_path / "a" / "programs.json"
    offline.write_section(path, "before", {"target": "h"}, [{"program": "f"}, {}])
    offline.write_section(path, "after", {"target": "i"}, [])
    offline.write_section(path, "after", {"target": "j"}, [{"program": "g"}])
    assert json.loads(path.read_text()) == {
        "before": {"target": "h", "programs": [{"program": "f"}, {}]},
        "after": {"target": "j", "programs": [{"program": "g"}]},
    }
    for text in ("[]", "{", '{"rows": 3}'):
        path.write_text(text)
        with pytest.raises(UserError, match="is not a JSON file of programs"):
            offline.write_section(path, "after", {}, [])
        assert path.read_text() == text


@pytest.mark.slow
def test_the_librarys_programs_are_programs(context):
    programs = library.programs(context)
    assert len({program.key for program in programs}) == len(programs)
    for program in programs:
        program.function.trace(*program.arguments)


@pytest.mark.slow
def test_the_library_is_compiled_for_a_gpu(tmp_path, folders, capfd):
    try:
        offline.require_plugin()
    except UserError as error:
        pytest.skip(str(error))
    options = "--compile_for=h100", "--rehearse", "--items=library", "--label=here"
    done = binaries.run("benchmarks.gpu", *options, *folders)
    printed = capfd.readouterr()  # by the process that it starts
    assert done.returncode == 0, printed.out + done.stderr
    assert "Compiled for h100" in printed.out
    path = tmp_path / "out" / "gpu_compile.json"
    records = json.loads(path.read_text())["here"]["programs"]
    kernels = [r for r in records if "purify, kernel" in r["program"]]
    assert kernels and all("failed" not in record for record in records)
    assert all("__gpu$xla.gpu.triton" in r["library_calls"] for r in kernels)
