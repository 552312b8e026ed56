"""Each benchmark at toy size, as a user runs it."""

import json

import binaries
import drawn
import matplotlib.colors
import pytest

from benchmarks import gradients

pytestmark = pytest.mark.slow


def run(name, *flags, cwd):
    done = binaries.start(f"benchmarks.{name}", *flags, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_gradients(tmp_path):
    out = run("gradients", "--max_size=8", "--repeats=1", "--out=g.json", cwd=tmp_path)
    assert "stable" in out
    record = json.loads((tmp_path / "g.json").read_text())
    assert record["provenance"]["versions"]["jax"]

    for row in record["accuracy"]:
        if row["delta_over_sigma"] >= 0.1 and row["route"] == "stable":
            assert row["error"] < (1e-4 if row["dtype"] == "float32" else 1e-10)
    found = {(row["matrix"], row["route"]): row for row in record["failures"]}
    for (matrix, route), row in found.items():
        if route == "stable":
            assert row["gradient_error"] < 1e-5, matrix
            assert row["second_derivative_finite"], matrix
    # What the stable form is for: here the SVD's own derivatives are NaN.
    assert found["flat", "singular vectors"]["gradient_error"] is None
    assert not found["flat", "singular values"]["second_derivative_finite"]

    routes = {row["route"] for row in record["timings"]}
    assert routes == {
        "closed form",
        "stable",
        "singular values",
        "singular vectors",
        "forward",
        "directional",
    }
    for row in record["timings"]:
        assert row["compile_seconds"] > 0
        assert row["route"] != "closed form" or row["ratio_to_closed_form"] == 1
    colours = gradients.COLORS.values()
    assert drawn.colours_in(tmp_path / "g.png", colours) == list(colours)


def test_stopping(tmp_path):
    run("stopping", "--num_test=2", "--num_images=2", "--out=s.json", cwd=tmp_path)
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    far, *rest = rows
    assert far["clean"]["mean_difference"] == 0
    assert far["clean"]["mean_steps"] == 420
    steps = {(r["tolerance"], r["max_steps"]): r["clean"]["mean_steps"] for r in rest}
    for (tolerance, most), taken in steps.items():
        assert taken <= most
        assert steps[1e-4, most] >= taken, tolerance
    assert min(row["flat_error"] for row in rows) < 0.01


def test_purify(tmp_path):
    counts = ["--num_images=2", "--num_exact=2", "--num_gradients=2", "--num_large=0"]
    run("purify", *counts, "--rounds=1", "--repeats=1", "--out=s.json", cwd=tmp_path)
    record = json.loads((tmp_path / "s.json").read_text())["purify"]
    assert record["provenance"]["hardware"]
    ways = {(row["work"], row["way"]) for row in record["rows"]}
    assert ways == {
        ("purify 32 x 32", "fast"),
        ("purify 32 x 32", "exact"),
        ("purify 32 x 32", "numpy"),
        ("purify 32 x 32, channels concatenated", "fast"),
        ("purify 32 x 32, channels concatenated", "exact"),
        ("gradient, 1 rounds", "fast"),
        ("gradient, 1 rounds", "exact"),
        ("gradient, 1 rounds", "through SVD"),
    }
    for row in record["rows"]:
        assert row["ms_per_image"] > 0
        assert row["way"] != "fast" or row["ratio"] == 1


def test_purify_by_the_kernel(tmp_path):
    sizes = "--num_images=3 --num_exact=2 --image_side=16 --max_steps=14 --num_test=3"
    flags = [*sizes.split(), "--repeats=1", "--peak_tflops=2", "--peak_gbytes=1e-3"]
    out = run("purify", "--interpret", *flags, "--out=s.json", cwd=tmp_path)
    assert "share of floor" in out
    record = json.loads((tmp_path / "s.json").read_text())["purify_interpreted"]
    rows = {row["way"]: row for row in record["rows"]}
    assert set(rows) == {"exact", "fast", "fused"}
    for row in rows.values():
        assert row["mean_difference"] < 1e-3
        assert row["share_near"] > 0.999
    counts = record["fused"]
    # Anchors, places and result of 16 x 16, vectors of 16 x 8 padded to 16; 3 numbers.
    assert counts["bytes_per_image"] == 2 * 3 * 4 * (4 * 16 * 16 + 3)
    assert counts["steps_per_completion"] == 14
    assert 1 <= counts["corrections_per_step"] <= 3
    # So little memory would hold it up: bytes / (GB/s), in ms.
    floor = counts["bytes_per_image"] / 1e3
    assert counts["floor_ms_per_image"] == pytest.approx(floor)
    share = counts["share_of_floor"] * rows["fused"]["ms_per_image"]
    assert share == pytest.approx(floor)


def test_growth(tmp_path):
    limits = ["--max_images=1", "--max_side=16", "--max_devices=1"]
    run("growth", *limits, "--out=s.json", cwd=tmp_path)
    record = json.loads((tmp_path / "s.json").read_text())["growth"]
    for name in ("images", "side", "devices"):
        (point,) = record[name]["points"]
        assert point["seconds"] > 0
        both = 2 * point["images"] * 3 * point["side"] ** 2 / 2**20
        assert point["megabytes_beyond"] == pytest.approx(point["megabytes"] - both)
        assert point["megabytes_beyond"] > 50
    both = [matplotlib.colors.to_hex(name) for name in ("C0", "C1")]
    assert drawn.colours_in(tmp_path / "growth.png", both) == both
