import json
import pathlib
import sys

import jax
import pytest

from train.records import provenance

LAUNCH = pathlib.Path(__file__).resolve().parents[3] / "launch.sh"


def test_says_what_ran_where(monkeypatch):
    flags = ["--data_dir=/secret/data", "--seed=3", "--note=in words", "/a/b"]
    monkeypatch.setattr(sys, "argv", ["/secret/x.py", *flags])
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/secret/dump")
    facts = provenance.provenance()
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["command"].endswith("--data_dir=data --seed=3 '--note=in words' b")
    assert facts["xla_flags"] == "--xla_dump_to=dump"
    assert "cores" in facts["hardware"]
    assert "/secret" not in json.dumps(facts)


@pytest.mark.parametrize(
    ("backend", "setting", "words"),
    [
        ("cpu", None, "float32"),
        ("gpu", None, "TF32 in networks where cuDNN or cuBLAS choose it; float32 in "),
        ("tpu", None, "in networks the default of tpu; float32 in "),
        ("gpu", "highest", "highest by jax_default_matmul_precision; "),
    ],
)
def test_says_in_which_precision(monkeypatch, backend, setting, words):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with jax.default_matmul_precision(setting):
        facts = provenance.provenance()
    assert facts["float32_products"].startswith(words)


def test_flags_of_the_launcher_are_not_recorded(monkeypatch):
    (common,) = provenance.LAUNCH_XLA_FLAGS
    assert f'XLA_FLAGS="{common} ${{XLA_FLAGS-}}"' in LAUNCH.read_text()
    for value in ("", f"{common} "):
        monkeypatch.setenv("XLA_FLAGS", value)
        assert "xla_flags" not in provenance.provenance()
    monkeypatch.delenv("XLA_FLAGS")
    assert "xla_flags" not in provenance.provenance()
    monkeypatch.setenv("XLA_FLAGS", f"{common} --xla_gpu_autotune_level=0")
    assert provenance.provenance()["xla_flags"] == "--xla_gpu_autotune_level=0"
