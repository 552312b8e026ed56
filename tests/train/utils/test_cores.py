"""Results on some of the cores and on all of them, as `launch.sh` starts a binary."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from train.training import checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[3]
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def environment() -> dict[str, str]:
    """What `launch.sh` sets for the number of threads."""
    script = (ROOT / "launch.sh").read_text()
    function = re.search(r"^same_bits\(\) \{\n.*?^\}\n", script, re.MULTILINE | re.S)
    unset = {k: v for k, v in os.environ.items() if "NPROC" not in k}
    done = subprocess.run(
        [shutil.which("bash"), "-c", f"{function[0]}\nsame_bits\nenv"],
        env=unset | {"OPENBLAS_NUM_THREADS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = (line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return {k: v for k, v in pairs if k in ("NPROC", "OPENBLAS_NUM_THREADS")}


def run(cores, module, *flags):
    """A binary that sees these cores alone."""
    os.sched_setaffinity(0, cores)  # which the process inherits
    try:
        subprocess.run(
            [sys.executable, "-m", module, *flags],
            env=os.environ | environment() | {"PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        )
    finally:
        os.sched_setaffinity(0, CORES)


def test_threads_do_not_follow_the_cores():
    threads = environment()
    assert int(threads["NPROC"]) >= 8
    assert threads["OPENBLAS_NUM_THREADS"] == "1"


@pytest.mark.slow
@pytest.mark.skipif(len(CORES) < 2, reason="there is one core alone")
def test_purification_and_training_are_the_same_on_one_core_and_on_all(tmp_path):
    rng = np.random.default_rng(0)
    # From 64 pixels a side on LAPACK would share a decomposition among threads.
    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "in.npy", images)
    purified, weights = [], []
    for cores in (CORES[:1], CORES):
        out = tmp_path / f"purified{len(cores)}.npy"
        run(
            cores,
            "train.purify",
            f"--input={tmp_path / 'in.npy'}",
            f"--output={out}",
            "--splic_max_steps=28",
        )
        purified.append(np.load(out))
        folder = tmp_path / f"trained{len(cores)}"
        run(
            cores,
            "train.train",
            f"--out={folder}",
            "--num_train=256",
            "--num_test=8",
            "--epochs=1",
            "--compilation_cache=none",
        )
        weights.append(checkpoints.load_checkpoint(folder).variables)
    np.testing.assert_array_equal(*purified)
    for one, all_ in zip(*map(jax.tree.leaves, weights), strict=True):
        np.testing.assert_array_equal(one, all_)
