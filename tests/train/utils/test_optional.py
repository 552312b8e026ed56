"""What runs without the packages that only some of the binaries need."""

import os
import pathlib
import subprocess
import sys

import pytest

from train.utils.errors import UserError
from train.utils.optional import require

ROOT = pathlib.Path(__file__).resolve().parents[3]
OPTIONAL = (
    "array_record",
    "dm_pix",
    "grain",
    "jinja2",
    "markupsafe",
    "tensorboardX",
    "tensorflow_datasets",
)
# All but the page of the report, which is put together from files.
IMPORTS = f"""
import importlib, pathlib, sys
sys.modules.update(dict.fromkeys({OPTIONAL}))
import attacks, splic_jax
for folder in ("train", "benchmarks"):
    for path in sorted(pathlib.Path(folder).rglob("*.py")):
        if path.stem != "__init__" and "report" not in path.with_suffix("").parts:
            importlib.import_module(".".join(path.with_suffix("").parts))
"""


def test_everything_but_the_report_is_imported_without_the_optional_packages():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", IMPORTS], cwd=ROOT, env=environment, check=True
    )


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(UserError, match="^this needs the package grain, .*") as caught:
        require("grain")
    assert "\n" not in str(caught.value)
    assert require("json") is sys.modules["json"]
