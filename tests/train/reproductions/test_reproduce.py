"""`reproduce` with a user's flags: all of it at the scale of tests."""

import dataclasses
import json
import pathlib
from types import SimpleNamespace

import binaries
import drawn
import given_networks
import numpy as np
import pytest

from train.data import loading
from train.models import cifar_resnet
from train.networks.classifier import from_weights
from train.present.plots import COLOURS
from train.records.printed import PRINTED, printed_values
from train.records.storing import read_record, record_of
from train.reproductions.comparison import compare, write_table
from train.reproductions.pictures import photograph
from train.reproductions.run import ITEMS, chosen, planned
from train.reproductions.scales import SCALES
from train.reproductions.tables import TABLES
from train.reproductions.workshop import Workshop
from train.training.checkpoints import weights_checksum
from train.utils.errors import UserError
from train.utils.progress import Progress


def run(*flags, cwd):
    return binaries.run("train.reproduce", *flags, cwd=cwd)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, optimized_module):
    folder = tmp_path_factory.mktemp("reproduce")
    done = run("--scale=smoke", "--out=out", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_draws_a_figure_that_needs_no_network_and_does_so_once(tmp_path):
    flags = ("--scale=smoke", "--only=figure4", "--out=out")
    done = run(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "out" / "figure4"
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["finished"] and not record["cells"] and not record["networks"]
    for changes in record["relative_change"]:
        assert len(changes) % 7 == 0
        # Steps go on until the change falls to the tolerance, or for as long as may be.
        assert changes[-1] < changes[0]
    words = drawn.words_of(path.with_suffix(".svg"))
    assert {f"image {i}" for i in range(len(record["relative_change"]))} <= set(words)
    again = run(*flags, cwd=tmp_path)
    assert again.returncode == 0 and "figure4 is done already" in again.stdout


@pytest.mark.slow
def test_writes_every_table_and_figure(first_run):
    folder, _ = first_run
    scale = SCALES["smoke"]
    for name, item in ITEMS.items():
        path = folder / "out" / f"{name}.json"
        record = json.loads(path.read_text())
        assert record["finished"], name
        assert set(record["networks"]) == set(item.needs(scale))
        rows = [(cell["row"], cell["column"]) for cell in record["cells"]]
        assert rows == [(each.row, each.column) for each in item.cells(scale)]
        for suffix in item.suffixes:
            if suffix == ".md":
                text = path.with_suffix(suffix).read_text()
                assert text.startswith(f"# Table {name[5:]}, shapes\n")


@pytest.mark.slow
def test_figures_show_what_was_measured(first_run):
    folder, _ = first_run
    words = {
        "figure4": [f"image {i}" for i in range(4)],
        "figure10": ["without SPLIC", "with SPLIC", *loading.CLASS_NAMES["shapes"]],
    }
    words["choice"] = ["no defence", "0.02", "0.15", "Pareto front"]
    lines = {"figure4": 4, "figure12": 2, "choice": 1}
    for name, item in ITEMS.items():
        path = folder / "out" / name
        record = json.loads(path.with_suffix(".json").read_text())
        if "predicted" in record:
            expected = drawn.expected_frames(
                record["predicted"].values(), record["labels"]
            )
            assert drawn.frames_in(path.with_suffix(".png")) == expected, name
        if ".svg" not in item.suffixes:
            continue
        rows, columns = (
            list(dict.fromkeys(cell[key] for cell in record["cells"]))
            for key in ("row", "column")
        )
        if (
            name == "figure12"
        ):  # an image is a point; columns are panels, by their names
            columns = ["clean", "attacked (gray-box PGD)"]
        expected = words.get(name, [*(rows if len(rows) > 1 else []), *columns])
        if name == "figure5":
            expected = [
                f"r = {r}, {x:.1f} dB" for r, x in record["psnr_db_by_rank"].items()
            ]
        assert expected and set(expected) <= set(
            drawn.words_of(path.with_suffix(".svg"))
        )
        colours = COLOURS[: lines.get(name, len(rows))]
        assert drawn.colours_in(path.with_suffix(".png"), colours) == list(colours), (
            name
        )


@pytest.mark.slow
def test_writes_a_table(first_run):
    folder, _ = first_run
    record = read_record(folder / "out" / "table3.json")
    assert record["finished"]
    assert record["scale"]["name"] == "smoke"
    assert record["dataset"]["name"] == "shapes"
    assert record["provenance"]["versions"]["jax"]
    assert record["networks"]["vanilla"]["defense"] is None
    rows = [(cell["row"], cell["column"]) for cell in record["cells"]]
    methods = ("USVT", "Soft-Imp", "ME-Net", "SPLIC", "SPLIC, lambda as printed")
    methods += ("TV minimisation", "JPEG")
    assert rows == [(row, c) for row in methods for c in ("Clean", "FGSM", "PGD")]
    text = (folder / "out" / "table3.md").read_text()
    assert "its numbers say nothing about the paper" in text
    for cell, row in zip(record["cells"], record["comparison"], strict=True):
        assert cell["count"] == 12  # settings would be chosen on the first four
        assert cell["accuracy"] == cell["correct_by_image"].count("1") / 12
        assert f"| {100 * cell['accuracy']:.1f} |" in text
        assert row["verdict"] == "not printed"


@pytest.mark.slow
def test_a_cell_that_two_items_want_is_measured_once(first_run):
    folder, done = first_run
    assert "table3: SPLIC, PGD:" in done.stdout
    assert "figure6: gray-box PGD, 8" not in done.stdout
    found = {}
    for name in ("table3", "figure6"):
        record = read_record(folder / "out" / f"{name}.json")
        for cell in record["cells"]:
            found[name, cell["row"], cell["column"]] = cell["correct_by_image"]
    same = found["table3", "SPLIC", "PGD"]
    assert found["figure6", "gray-box PGD", "8"] == same


@pytest.mark.slow
def test_a_second_run_measures_what_is_missing_and_no_more(first_run):
    folder, _ = first_run
    path = folder / "out" / "table3.json"
    before = path.read_text()
    record = json.loads(before)
    # As if interrupted: one cell is missing, and another has a mark that only a new
    # measurement could remove.
    record["finished"] = False
    # No other item has these two cells.
    del record["cells"][1]
    record["cells"][1]["queries_per_image"] = -1
    path.write_text(json.dumps(record))
    again = run("--only=table3,figure6", "--out=out", cwd=folder)
    assert again.returncode == 0, again.stderr
    measured = [line for line in again.stdout.splitlines() if " of 12" in line]
    assert len(measured) == 1 and measured[0].startswith("table3: USVT, FGSM:")
    assert "figure6 is done already" in again.stdout
    after = json.loads(path.read_text())
    assert after["cells"][2]["queries_per_image"] == -1
    expected = json.loads(before)["cells"]
    expected[2]["queries_per_image"] = -1
    assert after["cells"] == expected
    assert after["finished"]


@pytest.mark.slow
def test_other_settings_do_not_go_into_the_same_folder(first_run):
    folder, _ = first_run
    path = folder / "out" / "table3.json"
    inputs = {"seed": json.loads(path.read_text())["seed"]}
    assert record_of(path, inputs)["finished"]
    with pytest.raises(
        UserError, match="was measured with seed 0, not 1; give another"
    ):
        record_of(path, {"seed": 1})


def test_a_users_mistake_is_one_line(tmp_path):
    done = run("--only=table9", "--out=out", cwd=tmp_path)
    assert done.returncode == 1
    assert "--only has 'table9'; choose from table3" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (([], "smoke", None), "--only is empty"),
        ((None, "huge", None), "--scale has 'huge'; choose from smoke"),
        ((None, "small", "mnist"), "--dataset has 'mnist'; choose from shapes"),
    ],
)
def test_an_unknown_name_is_refused(flags, message):
    with pytest.raises(UserError, match=message):
        chosen(*flags)


def test_smoke_needs_no_files():
    assert chosen(None, "smoke", None)[2] == "shapes"
    assert chosen(None, "small", None)[2] == "cifar10"


def test_all_tables_and_figures_are_there(tmp_path):
    expected = {f"table{n}" for n in range(1, 5)} | {f"figure{n}" for n in range(3, 13)}
    assert set(ITEMS) == expected | {"choice", "choice_adaptive"}
    done = run("--list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert names == list(ITEMS)


def test_a_plan_names_every_network_and_cell():
    scale = SCALES["paper"]
    plan = planned(list(ITEMS), workshop_of(scale))
    assert "splic_tv_weight_0.05: resnet18, 100 epochs, images splic" in plan
    assert "surrogate: resnet18_denoise" in plan
    assert "C&W-5x1000" in plan
    lines = [line for line in plan.splitlines() if ": network " in line]
    assert len(lines) == sum(len(i.cells(scale)) for i in ITEMS.values())


def workshop_of(scale, given=None, surrogate=None):
    folder = pathlib.Path("unused")
    progress = Progress(quiet=True)
    return Workshop(
        scale, "cifar10", None, folder, 0, progress, given, surrogate=surrogate
    )


def test_a_workstation_starts_from_the_network_that_is_given(tmp_path):
    with pytest.raises(UserError, match="fine-tunes a network; give --weights"):
        chosen(["table2"], "workstation", None)
    shapes = cifar_resnet.shapes(3, 10)
    np.savez(tmp_path / "net.npz", **{n: np.full(x, 0.01) for n, x in shapes.items()})
    given = from_weights(tmp_path / "net.npz", None)
    names, scale, _ = chosen(["table1", "table2"], "workstation", None, given, given)
    workshop = workshop_of(scale, given, given)
    plan = planned(names, workshop)
    assert plan.count(f"none, but {given.name}") == 2  # vanilla and the surrogate
    assert "splic_fast_at: resnet20, 2 epochs, images splic, recipe fast" in plan
    settings = workshop.training_settings("splic")
    assert settings.initial_weights == weights_checksum(given.split[1])
    assert settings.masks_per_image == 2


def test_test_images_may_lie_elsewhere_and_some_are_set_aside(tmp_path):
    for folder, count in (("jpeg", 20), ("originals", 10)):
        (tmp_path / folder).mkdir()
        for number in range(1, 6):
            given_networks.write_cifar(tmp_path / folder, f"data_batch_{number}", count)
        given_networks.write_cifar(tmp_path / folder, "test_batch", count)
    scale = dataclasses.replace(
        SCALES["smoke"], num_train=None, num_test=None, chosen_on=4
    )
    workshop = workshop_of(scale)
    workshop.data_dir = str(tmp_path / "jpeg")
    workshop.test_data_dir = str(tmp_path / "originals")
    assert len(workshop.whole_test.images) == 10
    assert np.array_equal(workshop.test.labels, workshop.whole_test.labels[4:])
    assert len(workshop.training.images) == 100


def test_the_photograph_comes_with_a_dependency():
    image = photograph()
    assert image.shape == (112, 112, 3)
    assert 0 <= image.min() < 0.1 and 0.9 < image.max() <= 1


@pytest.mark.parametrize("dataset", ["cifar10", "svhn_cropped"])
def test_every_printed_value_has_a_cell(dataset):
    seen = 0
    for number in range(1, 5):
        printed = printed_values(number, dataset)
        cells = TABLES[f"table{number}"].cells(SCALES["paper"])
        assert set(printed) <= {(cell.row, cell.column) for cell in cells}
        seen += len(printed)
    assert seen == {"cifar10": 47, "svhn_cropped": 32}[dataset]


def test_no_printed_value_is_of_another_data_set_or_table():
    values = json.loads(PRINTED.read_text())["values"]
    of_ours = sum(
        len(printed_values(number, dataset))
        for number in range(1, 5)
        for dataset in ("cifar10", "svhn_cropped")
    )
    assert of_ours == len(values)
    assert printed_values(2, "cifar10")["SPLIC", "BPDA"] == 68.5
    assert printed_values(4, "svhn_cropped")["SRF", "CW"] == 83.5
    assert not printed_values(2, "shapes")


@pytest.mark.parametrize(
    ("paper", "verdict", "difference"),
    [(50.0, "agrees", 2.0), (59.9, "disagrees", -7.9), (None, "not printed", None)],
)
def test_a_value_outside_the_interval_disagrees(paper, verdict, difference):
    cell = {
        "row": "SPLIC",
        "column": "PGD",
        "accuracy": 0.52,
        "accuracy_interval": [0.48, 0.56],
        "count": 600,
    }
    row = compare(cell, paper)
    assert row["verdict"] == verdict
    if paper is not None:
        assert row["difference"] == pytest.approx(difference)
    assert row["interval"] == pytest.approx([48, 56])


def test_a_table_says_where_it_disagrees(tmp_path):
    cells = [
        {
            "row": "SPLIC",
            "column": column,
            "accuracy": 0.41,
            "accuracy_interval": [0.38, 0.42],
            "count": 1000,
        }
        for column in ("FGSM", "PGD")
    ]
    workshop = SimpleNamespace(scale=SCALES["small"], dataset_name="cifar10")
    write_table(3, workshop, cells, tmp_path / "table3")
    text = (tmp_path / "table3.md").read_text()
    assert "Scale small: not the paper's setting" in text
    assert "1 of 2 printed values disagree" in text
    assert (
        "| SPLIC | FGSM | 40.9 | 41.0 | 38.0 to 42.0 | 1000 | +0.1 | agrees |" in text
    )
    assert (
        "| SPLIC | PGD | 43.6 | 41.0 | 38.0 to 42.0 | 1000 | -2.6 | disagrees |" in text
    )


GIVEN = f"--network={given_networks.__file__}:logits"


def test_a_network_that_is_given_stands_for_vanilla(tmp_path):
    shapes = cifar_resnet.shapes(1, 10)
    arrays = {name: np.full(x, 0.01, np.float32) for name, x in shapes.items()}
    np.savez(tmp_path / "resnet8.npz", **arrays)
    flags = ("--weights=resnet8.npz", "--scale=smoke", "--dry_run")
    # In a process of its own: loading it must not come before what JAX is told first.
    done = binaries.start("train.reproduce", *flags, "--only=table3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "vanilla: none, but --weights=resnet8.npz" in done.stdout
    assert "epochs" not in done.stdout  # nothing is trained
    done = run(*flags, "--only=figure10", cwd=tmp_path)
    assert done.returncode == 1
    assert "--only has 'figure10'; choose from table3" in done.stderr


@pytest.mark.slow
def test_table_3_in_front_of_a_network_that_is_given(tmp_path, schema_errors):
    for number in range(1, 6):
        given_networks.write_cifar(tmp_path, f"data_batch_{number}", 100)
    given_networks.write_cifar(tmp_path, "test_batch", 100)
    flags = (GIVEN, "--scale=smoke", "--only=table3", "--out=out")
    flags += ("--dataset=cifar10", "--data_dir=.")
    done = run(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "out" / "table3.json")
    assert schema_errors(record) == []
    assert record["networks"]["vanilla"]["function"] == "given_networks.py:logits"
    assert record["clean_accuracy"]["accuracy"] == 1
    assert not (tmp_path / "out" / "networks").exists()
    done = run(*(flags[1:]), cwd=tmp_path)
    assert done.returncode == 1 and "was measured with" in done.stderr
