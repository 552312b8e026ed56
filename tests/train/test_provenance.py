import json
import sys

import jax

from train import provenance


def test_says_what_ran_where(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/secret/x.py", "--data_dir=/secret/data", "--seed=3", "/a/b"]
    )
    facts = provenance.provenance()
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["command"].endswith("--data_dir=data --seed=3 b")
    assert "cores" in facts["hardware"]
    assert "/secret" not in json.dumps(facts)
