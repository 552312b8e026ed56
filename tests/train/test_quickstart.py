"""The quickstart and `evaluate`, with a user's flags, at toy size."""

import json
import os
from unittest import mock

import binaries
import drawn
import pytest

from splic_jax import METHODS
from train.records.storing import read_record

COUNT = 8
TOY = ("--num_train=16", f"--num_test={COUNT}", "--epochs=1")


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, optimized_module):
    folder = tmp_path_factory.mktemp("quick start")
    done = binaries.run("train.quickstart", "--out=out", *TOY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_writes_the_table_the_json_and_the_figure(first_run, schema_errors):
    folder, done = first_run
    for word in ("[1/5", "[5/5", "white-box", "gray-box", "quickstart.png"):
        assert word in done.stdout
    record = read_record(folder / "out" / "quickstart.json")
    assert schema_errors(record) == []
    assert record["provenance"]["versions"]["jax"]
    assert set(record["networks"]) == {"bare", "splic"}
    cost = record["cost"]
    assert 0 < cost["seconds_to_first_work"] < 60 * cost["minutes"]
    assert 0 < cost["cpu_minutes"] <= cost["minutes"] * (os.cpu_count() + 1)
    for name, cells in record["networks"].items():
        names = [(cell["defense"], cell["threat"]) for cell in cells]
        expected = [
            ("none", "clean"),
            ("none", "black-box"),
            ("none", "white-box"),
            ("splic", "clean"),
            ("splic", "black-box"),
            ("splic", "gray-box"),
            ("splic", "white-box"),
        ]
        if name == "bare":  # the surrogate of the other one
            expected = [pair for pair in expected if pair[1] != "black-box"]
        assert names == expected
        for cell in cells:
            assert cell["count"] == COUNT
            assert cell["accuracy"] == cell["correct_by_image"].count("1") / COUNT
            low, high = cell["accuracy_interval"]
            assert low <= cell["accuracy"] <= high
    answers = {
        (cell["defense"], cell["threat"]): cell["correct_by_image"]
        for cell in record["networks"]["bare"]
    }
    shown = [("none", "clean"), ("none", "white-box"), ("splic", "gray-box")]
    right = sum(answers[name].count("1") for name in shown)
    wrong = 3 * COUNT - right  # fewer than the figure has room for
    assert drawn.frames_in(folder / "out" / "quickstart.png") == (right, wrong)


@pytest.mark.slow
def test_runs_in_a_process_of_its_own(tmp_path):
    done = binaries.start("train.quickstart", "--out=out", *TOY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "out" / "quickstart.json")
    assert set(record["networks"]) == {"bare", "splic"}
    assert (tmp_path / "out" / "quickstart.png").exists()
    flags = ("--checkpoint=out/bare", f"--num_test={COUNT}", "--threats=clean")
    done = binaries.start("train.evaluate", *flags, "--defenses=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = read_record(tmp_path / "out" / "evaluation.json")
    (cell,) = found["cells"]
    assert cell["correct_by_image"] == record["networks"]["bare"][0]["correct_by_image"]


def test_starts_and_refuses_what_makes_no_sense(tmp_path):
    done = binaries.start("train.quickstart", "--num_test=0", cwd=tmp_path)
    assert done.returncode == 1
    assert "flag --num_test=0: 0 is not a positive integer" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_second_run_measures_nothing_again(first_run):
    folder, _ = first_run
    path = folder / "out" / "quickstart.json"
    before = read_record(path)
    record = json.loads(path.read_text())
    record["networks"]["splic"].pop()  # as if interrupted before the last cell
    path.write_text(json.dumps(record))
    again = binaries.run("train.quickstart", "--out=out", *TOY, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("trained already") == 2
    assert again.stdout.count("white-box, defense splic") == 1
    assert read_record(path)["networks"] == before["networks"]


def evaluated(folder, *flags):
    flags += (
        "--checkpoint=out/splic",
        "--surrogate=out/bare",
        f"--num_test={COUNT}",
        "--threats=clean,black-box,gray-box",
    )
    done = binaries.run("train.evaluate", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    record = read_record(folder / "out" / "evaluation.json")
    quick = read_record(folder / "out" / "quickstart.json")
    expected = {
        (cell["defense"], cell["threat"]): cell["correct_by_image"]
        for cell in quick["networks"]["splic"]
    }
    got = {
        (cell["defense"], cell["threat"]): cell["correct_by_image"]
        for cell in record["cells"]
    }
    assert got["none", "clean"] == expected["none", "clean"]
    assert got["splic", "black-box"] == expected["splic", "black-box"]
    assert got["splic", "gray-box"] == expected["splic", "gray-box"]
    return record, done.stdout


def test_evaluate_agrees_with_the_quickstart(first_run, schema_errors):
    folder, _ = first_run
    record, _ = evaluated(folder, "--defenses=none,splic", "--nosoundness")
    assert schema_errors(record) == []


@pytest.fixture(scope="module")
def bit_depth_run(first_run):
    folder, _ = first_run
    flags = ("--checkpoint=out/bare", f"--num_test={COUNT}", "--threats=clean")
    flags += ("--defenses=bit_depth", "--nosoundness", "--out=out/first.json")
    for _ in range(2):  # the same settings go on
        done = binaries.run("train.evaluate", *flags, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder, flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seed=1",), "was measured with seed 0, not 1"),
        (("--num_test=4",), "was measured with dataset.count 8, not 4"),
        (("--votes=3",), "was measured with votes 1, not 3"),
        (("--surrogate=out/splic",), "was measured with another surrogate"),
        (("--option=bit_depth.bits=8",), "with defenses.bit_depth.bits 3, not 8"),
        (("--seed=1", "--out=out/notes.json"), "is no result of this program"),
    ],
)
def test_evaluate_replaces_nothing(bit_depth_run, flags, message):
    folder, usual = bit_depth_run
    (folder / "out" / "notes.json").write_text('{"seed": 1}')
    before = {path: path.read_bytes() for path in (folder / "out").glob("*.json")}
    done = binaries.run("train.evaluate", *usual, *flags, cwd=folder)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{message}; give another --out or delete the file" in done.stderr
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_evaluate_compares_and_looks_for_doubts(first_run, schema_errors):
    folder, _ = first_run
    record, text = evaluated(folder, "--defenses=none,splic,splic_no_tv")
    assert schema_errors(record) == []
    assert ("splic_no_tv", "gray-box") in {
        (c["defense"], c["threat"]) for c in record["cells"]
    }
    rows = {(row["other"], row["threat"]): row for row in record["comparisons"]}
    assert rows["splic_no_tv", "clean"]["psnr_difference_db"]["half_width"] > 0
    assert "TV changes the PSNR" in text
    assert {f["check"] for f in record["soundness"]["splic"] if f["tripped"]} >= {
        "random"
    }
    assert all(cell["seed"] == 0 for cell in record["cells"])


def test_votes_and_options_reach_the_defence(first_run):
    folder, _ = first_run
    flags = (
        "--checkpoint=out/bare",
        f"--num_test={COUNT}",
        "--defenses=usvt,bit_depth",
        "--option=usvt.keep_probability=0.9",
        "--option=bit_depth.bits=8",
        "--threats=clean",
        "--votes=3",
        "--nosoundness",
        "--out=out/votes.json",
    )
    planned = binaries.run("train.evaluate", *flags, "--dry_run", cwd=folder)
    assert planned.returncode == 0, planned.stderr
    assert not (folder / "out" / "votes.json").exists()
    assert "about, minutes" in planned.stdout
    done = binaries.run("train.evaluate", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "out" / "votes.json").read_text())
    assert record["defenses"]["usvt"]["keep_probability"] == 0.9
    assert record["votes"] == 3
    psnr = {cell["defense"]: cell["psnr_db"] for cell in record["cells"]}
    assert psnr["bit_depth"] is None  # 8 bits change nothing
    assert psnr["usvt"]["mean"] > 10


def test_attacked_images_are_saved_as_they_were_judged(first_run, schema_errors):
    folder, _ = first_run
    flags = f"--checkpoint=out/bare --num_test={COUNT} --defenses=none --nosoundness"
    flags = (*flags.split(), "--threats=white-box", "--out=out/saved.json")
    plain = binaries.run("train.evaluate", *flags, "--attacks=fgsm", cwd=folder)
    assert plain.returncode == 0, plain.stderr
    flags = (*flags, "--attacks=fgsm", "--save_attacked=out/attacked")
    done = binaries.run("train.evaluate", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    record = read_record(folder / "out" / "saved.json")
    assert schema_errors(record) == []
    assert "saved" in record["cells"][0] and "saved" not in record["cells"][1]
    assert record["cells"][0]["attack"].endswith("rounded to 8 bits")
    path = folder / "out" / "attacked" / record["cells"][0]["saved"]["file"]
    assert len(list(path.with_suffix("").glob("*.png"))) == COUNT
    # Nothing is measured again, but what is no longer there.
    again = binaries.run("train.evaluate", *flags, cwd=folder)
    assert "2 cells are done from before" in again.stdout
    (path.with_suffix("") / "00000.png").unlink()
    assert binaries.run("train.evaluate", *flags, cwd=folder).returncode == 0
    assert (path.with_suffix("") / "00000.png").is_file()
    flags = (*flags, "--seed=1", "--out=out/other.json")
    other = binaries.run("train.evaluate", *flags, cwd=folder)
    assert other.returncode == 1 and "give another --save_attacked" in other.stderr


def test_the_registry_is_listed(first_run):
    folder, _ = first_run
    done = binaries.run("train.evaluate", "--list", cwd=folder)
    assert done.returncode == 0, done.stderr
    for name in METHODS:
        assert f"\n{name}\n" in f"\n{done.stdout}"


MISTAKES = {
    "--checkpoint=nowhere": "nowhere holds no training run",
    "--checkpoint=out/bare --defenses=spilc": "--defenses has 'spilc'",
    "--checkpoint=out/bare --defenses=thermometer": "gives the network 48",
    "--checkpoint=out/bare --option=jpeg.rank=3": "rank must be one of",
    "--checkpoint=out/bare --option=jpeg=3": "is not METHOD.FIELD=VALUE",
    "--checkpoint=out/bare --attacks=magic": "--attacks has 'magic'",
    "": "give --checkpoint",
    "--checkpoint=out/bare --threats=": "--threats is empty",
    "--checkpoint=out/bare --surrogate=out": "out holds no training run",
    "--checkpoint=out/bare --tv_weight=-1": "--tv_weight must be in",
    "--checkpoint=out/bare --rank=40": "--rank=40 exceeds",
    "--checkpoint=out/bare --epsilon=nan": "--epsilon must be",
    "--checkpoint=out/bare --threats=black-box": "needs --surrogate",
    "--checkpoint=out/bare --threats=gray-box --defenses=none": "nothing to measure",
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_users_mistake_is_one_line(first_run, case):
    folder, _ = first_run
    flags = (*case.split(), "--out=out/none.json")
    # Said before the network is looked at, which would take a while.
    with mock.patch("train.evaluation.run.soundness_of", side_effect=AssertionError):
        done = binaries.run("train.evaluate", *flags, cwd=folder)
    assert done.returncode == 1
    assert MISTAKES[case] in done.stderr and done.stderr.count("\n") == 1
    assert not (folder / "out" / "none.json").exists()
