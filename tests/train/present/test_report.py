"""The report, from small results made here and from those of the checkout."""

import html.parser
import json
import pathlib
import re

import binaries
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from attacks import check_attack, check_classifier
from train.present import plots
from train.present.plots import Point, Series
from train.present.report.page import make_page
from train.present.report.sections import SECTIONS
from train.present.report.words import CHECKS
from train.present.results import FORMATS, Results, Traced
from train.utils.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[3]
PRINTED = ROOT / "train" / "records" / "printed.json"
VOID = {"meta", "link", "input", "img", "br"}
# What may hold digits that are no results: names, and what an interval is.
NAMES = re.compile(
    r"CIFAR-10|PGD-7|\b95\s%|Tables? \d( to \d)?|section \d(\.\d)+|reference \[4\]|"
    r"float64|\w+\.json"
)


class Page(html.parser.HTMLParser):
    """What tests ask of a page: sources, loose text, what pictures say, addresses."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.loose, self.unnamed = [], "", []
        self.urls, self.ids = [], []
        self._open = []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.urls += [
            (tag, name, value)
            for name, value in attrs.items()
            if value and re.search(r"https?:|//", value) and tag != "path"
        ]
        picture = tag in ("img", "svg") or attrs.get("role") == "img"
        if picture and not (attrs.get("alt") or attrs.get("aria-label")):
            self.unnamed.append((tag, attrs))
        if "data-source" in attrs:
            self.sources.append([attrs["data-source"], attrs["data-format"], ""])
        if tag not in VOID:
            self._open.append((tag, "data-source" in attrs))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if any(traced for _, traced in self._open):
            self.sources[-1][2] += data
        elif not {"code", "pre", "svg", "script", "style"} & {t for t, _ in self._open}:
            self.loose += data
        if {"script", "style"} & {tag for tag, _ in self._open}:
            self.urls += [("text", "", u) for u in re.findall(r"https?://\S+", data)]


def look_up(folder, source):
    """What stands at FILE#/json/pointer, found without the report's own code."""
    name, pointer = source.split("#")
    path = PRINTED if name == "printed.json" else folder / name
    value = json.loads(path.read_text())
    for word in pointer.split("/")[1:]:
        value = value[int(word)] if isinstance(value, list) else value[word]
    return value


def edited(page, folder):
    """The sources whose number on the page is not the one in the file."""
    wrong = []
    for source, format, text in Page(page).sources:
        values = [look_up(folder, one) for one in source.split(" ")]
        if FORMATS[format](*values) != text:
            wrong.append(source)
    return wrong


def cell(defense, threat, attack, correct, psnr=None, count=128):
    share = correct / count
    return {
        "threat": threat,
        "attack": attack,
        "defense": defense,
        "count": count,
        "correct": correct,
        "accuracy": share,
        "accuracy_interval": [0.9 * share, min(1, 1.1 * share)],
        "psnr_db": psnr and {"mean": psnr, "half_width": 0.25},
    }


PGD = "PGD-7, L-inf 8/255, step 2/255"
NETWORK = {
    "settings": {"model": "small", "epochs": 3},
    "training_set": {"num_train": 2000, "image_shape": [32, 32, 3]},
}


def made_up():
    """Small results of every kind."""
    facts = {
        "command": "python -m x --a=<b> --c",
        "date": "2026-01-02",
        "commit": "0a1b2c",
        "hardware": "a machine",
        "versions": {"jax": "1.2.3"},
    }
    base = {"provenance": facts, "seed": 0}
    count = {"name": "shapes", "count": 128}
    bare = [
        cell("none", "clean", "none", 100),
        cell("none", "white-box", PGD, 4),
        cell("splic", "clean", "none", 82, 23.0),
        cell("splic", "gray-box", PGD, 36, 22.0),
        cell("splic", "white-box", f"BPDA ({PGD})", 34, 22.0),
    ]
    splic = [*bare, cell("splic", "black-box", PGD, 63, 22.0)]
    gap = {"mean": -2.714, "half_width": 0.07}
    comparison = {"other": "splic_no_tv", "threat": "clean", "psnr_difference_db": gap}
    finding = {"check": "random", "tripped": True, "sentence": "It <differs>."}
    real = {**base, "dataset": {"name": "cifar10", "count": 128}, "network": NETWORK}
    files = {
        "quickstart.json": {
            **base,
            "dataset": count,
            "training": {"bare": {"num_train": 2000, "epochs": 3}},
            "attack": {"steps": 7, "epsilon": 8 / 255},
            "networks": {"bare": bare, "splic": splic},
        },
        "cifar10_bare.json": {
            **real,
            "cells": bare,
            "comparisons": [comparison],
            "soundness": {"splic": [finding, {**finding, "tripped": False}]},
        },
        "cifar10_splic.json": {**real, "cells": splic, "comparisons": []},
        "adaptive.json": {
            **real,
            "epsilon": 8 / 255,
            "budget": 100,
            "evaluations": 10,
            "rows": [
                {
                    "attack": name,
                    "steps": steps,
                    "masks_a_step": steps and 5,
                    "accuracy": {"mean": mean, "half_width": 0.0312},
                    "majority": mean,
                }
                for name, steps, mean in (
                    ("no attack", None, 0.5),
                    ("network alone", 100, 0.25),
                    ("BPDA + EOT", 20, 0.0406),
                )
            ],
        },
        **{
            f"cue_conflict_{name}.json": {**base, "dataset": count, "cells": bare[::2]}
            for name in ("bare", "splic")
        },
        "defenses_small.json": {
            **real,
            "attacks": {"pgd": {"epsilon": 8 / 255}},
            "votes": 10,
            "settings": {
                "splic": {"rank": None, "tv_weight": 0.02, "keep_probability": 0.5}
            },
            "bare": three("none", "white-box"),
            "methods": [*three("splic"), *three("usvt"), *three("jpeg")],
            "sweeps": [*three("rank=2"), *three("tv_weight=0.0")],
            "voted": three("splic"),
            "costs": [
                {"defense": "splic", "seconds": 0.0061, "ratio_to_splic": 1.0},
                {"defense": "usvt", "seconds": 0.003, "ratio_to_splic": 0.49},
            ],
        },
    }
    files["reproduction/table2.json"] = {
        **base,
        "finished": True,
        "scale": {"name": "cpu", "about": "a small network, 6 epochs"},
        "dataset": {"name": "cifar10"},
        "cells": [
            {**bare[4], "row": "SPLIC", "column": column} for column in ("BPDA", "EOT")
        ],
        "comparison": [
            {
                "row": "SPLIC",
                "column": column,
                "paper": paper,
                "ours": 26.6,
                "difference": paper and 26.6 - paper,
                "interval": [19.7, 34.8],
                "count": 128,
                "verdict": verdict,
            }
            for column, paper, verdict in (
                ("BPDA", 68.5, "disagrees"),
                ("EOT", None, "not printed"),
            )
        ],
    }
    files["reproduction/figure6.json"] = {
        **base,
        "finished": True,
        "dataset": {"name": "cifar10"},
        "cells": [
            {**bare[k], "row": "clean", "column": rank}
            for k, rank in enumerate(("2", "4", "8"))
        ],
    }
    views = {
        view: {
            "psnr_db": None if view == "clean" else 31.5,
            "top": {
                name: [
                    {"class": kind, "probability": share}
                    for kind, share in (("<i>", 0.6), ("ring", 0.3), ("leaf", 0.1))
                ]
                for name in ("bare", "splic")
            },
        }
        for view in ("clean", "attacked", "purified")
    }
    files["samples.json"] = {
        **base,
        "dataset": count,
        "attack": {"words": PGD},
        "views": list(views),
        "grid": {"keep_probability": [0.5], "rank": [2, 8], "tv_weight": [0.02]},
        "explored": 1,
        "rows_an_image": 1,
        "images": [{"index": i, "label": "<i>", "views": views} for i in range(2)],
        "explorer": [
            {
                "keep_probability": 0.5,
                "rank": rank,
                "tv_weight": 0.02,
                "images": [{"psnr_db": 20.25, "class": "<i>", "probability": 0.5}],
            }
            for rank in (2, 8)
        ],
    }
    return files


def three(name, threat="gray-box"):
    return [
        cell(name, "clean", "none", 80, 25.0),
        cell(name, threat, "FGSM, L-inf 8/255", 40, 22.0),
        cell(name, threat, PGD, 20, 22.0),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    (folder / "reproduction").mkdir()
    for name, record in made_up().items():
        (folder / name).write_text(json.dumps(record))
    for name in ("samples.png", "explorer.png", "gradients.png", "growth.png"):
        Image.fromarray(np.zeros((6, 4, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    text, missing = make_page(folder)
    assert missing == []
    return text


@pytest.mark.parametrize("which", ["made up", "the checkout's"])
def test_every_number_is_that_of_a_file(which, page, folder):
    if which != "made up":
        folder = ROOT / "results"
        page, _ = make_page(folder)
        assert len(page.encode()) < 5e6
    found = Page(page)
    assert len(found.sources) > 100
    assert edited(page, folder) == []
    loose = NAMES.sub("", found.loose)
    assert re.findall(r"[^\n]*\d[^\n]*", loose) == []


def test_a_number_edited_by_hand_is_found(page, folder):
    source = "quickstart.json#/networks/bare/0/accuracy"
    assert page.count(">78.1</data>") >= 2
    changed = page.replace(">78.1</data>", ">87.1</data>", 1)
    assert edited(changed, folder) == [source]
    # And one in the file, with the page left as it was.
    path = folder / "adaptive.json"
    before = path.read_text()
    try:
        path.write_text(before.replace("0.0406", "0.0506"))
        assert "adaptive.json#/rows/2/accuracy/mean" in edited(page, folder)
    finally:
        path.write_text(before)


def test_numbers_look_as_they_should():
    shown = {
        "percent": (0.78125, "78.1"),
        "whole percent": (0.9951, "100"),
        "interval": ([0.70201, 0.8444], "70.2 to 84.4"),
        "pixels": (8 / 255, "8/255"),
        "integer": (10_000, "10,000"),
        "plus-minus": ({"mean": 0.5, "half_width": 0.0755}, "±7.5"),
        "change": ({"mean": -2.714, "half_width": 0.07}, "−2.71 ±0.07"),
        "times": (0.4912, "0.49 x"),
        "milliseconds": (0.0061, "6.1"),
    }
    for format, (value, expected) in shown.items():
        assert FORMATS[format](value) == expected
    assert FORMATS["difference"](0.104, 43.6) == "−33.2"


def test_stands_alone_and_says_what_its_pictures_show(page):
    found = Page(page)
    assert found.urls == []
    assert found.unnamed == []
    assert len(found.ids) == len(set(found.ids))
    assert len(page.encode()) < 5e6
    # The sheets of pictures are in it.
    assert page.count("url(data:image/png;base64,") == 2


def test_is_the_same_for_the_same_results(page, folder):
    assert make_page(folder)[0] == page


def test_text_of_files_cannot_become_markup(page):
    assert "<i>ring" not in page
    assert "A &lt;i&gt;, seen by" in page
    assert "It &lt;differs&gt;." in page
    assert "--a=&lt;b&gt;" in page
    assert str(Traced("a", '"><b>', "text", "<b>").__html__()).count("<") == 2


def test_findings_and_comparisons_are_there(page):
    for text in ("What they found", "Table 3; ours: SPLIC, gray-box", "BPDA + EOT"):
        assert text in page
    kinds = ("difference", "points")
    differences = [s for s, f, _ in Page(page).sources if f in kinds]
    # 5 of Tables 1 and 2; 4 of Table 3; 1 of Table 2 as reproduced.
    assert len(differences) == 10
    assert "Table 2, rerun on CIFAR-10" in page and "disagrees" in page
    assert any("defenses_small.json" in source for source in differences)
    assert "Figure 6, rerun: accuracy against the target rank r" in page
    assert "Figure 9, rerun" not in page


def test_without_results_says_which_command_makes_them(tmp_path):
    page, missing = make_page(tmp_path)
    needed = dict.fromkeys(name for section in SECTIONS for name in section.files)
    assert missing == list(needed)
    text = re.sub("<.*?>", "", page)
    for name in needed:
        assert f"Left out: there is no {name}." in text
    assert "./launch.sh bench adaptive" in text
    # Nothing of ours to compare with; what is printed is there all the same.
    assert "Nothing has been measured yet" in text
    assert "68.5" in text


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "quickstart.json").write_text("{")
    with pytest.raises(UserError, match=r"quickstart\.json cannot be read"):
        make_page(tmp_path)
    (tmp_path / "quickstart.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no /networks/bare; make it again"):
        Results(tmp_path).value("quickstart.json#/networks/bare")


def test_the_command_writes_the_page(folder, tmp_path):
    out = tmp_path / "a" / "b.html"
    done = binaries.start("train.report", f"--results={folder}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert "0.1 MB" in done.stdout or "0.2 MB" in done.stdout
    done = binaries.run("train.report", f"--results={tmp_path / 'no'}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --results=") and done.stderr.count("\n") == 1


def test_printed_values_make_the_printed_gains():
    # The paper prints SPLIC's gain over the best of the others beside its tables.
    gains = {
        (2, "CIFAR-10", "BPDA"): 8.7,
        (2, "SVHN", "BPDA"): 6.1,
        (3, "CIFAR-10", "FGSM"): 9.7,
        (3, "CIFAR-10", "PGD"): 12.3,  # printed as 12.6
        (3, "SVHN", "FGSM"): 3.7,  # printed as 3.6
        (3, "SVHN", "PGD"): 8.0,  # printed as 9.1, which is over ME-Net
        (4, "SVHN", "Clean"): 6.3,
        (4, "SVHN", "FGSM"): 2.8,
        (4, "SVHN", "PGD"): 9.0,
        (4, "SVHN", "CW"): 2.5,
    }
    values = json.loads(PRINTED.read_text())["values"]
    assert len(values) == 79
    assert sum(value["value"] is None for value in values) == 8
    for (table, dataset, column), gain in gains.items():
        found = {
            value["method"]: value["value"]
            for value in values
            if (value["table"], value["dataset"], value["column"])
            == (table, dataset, column)
        }
        splic = found.pop("SPLIC")
        assert splic - max(found.values()) == pytest.approx(gain, abs=1e-9)


def test_checks_have_the_names_that_soundness_gives_them():
    def brightness(images, key):
        del key
        return images.mean(axis=(1, 2, 3))[:, None] * jnp.arange(4.0)

    images, labels = jnp.full((4, 2, 2, 3), 0.6), jnp.full(4, 3)
    inputs = (brightness, images, labels, jax.random.key(0))
    found = check_classifier(*inputs, starts=0)
    found += check_attack(*inputs, steps=(0, 1), scales=(1,))
    assert [finding.check for finding in found] == list(CHECKS)


def test_a_plot_puts_values_where_they_belong():
    points = [Point(20, 10, 30), Point(40, 40, 40), None, Point(80, 70, 90)]
    series = [Series("one", points), Series("two", points)]
    svg = plots.intervals(list("abcd"), series, "accuracy, % (5 images)")
    for text in (*"abcd", "one", "two", "accuracy, % (5 images)"):
        assert f">{text}</text>" in svg
    # Markers are drawn by <use>; of either series three, and one in the legend.
    group = svg[svg.index("var(--series-0)") :]
    uses = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*series-0', group)
    (x20, y20), (x40, y40), (x80, y80) = (tuple(map(float, use)) for use in uses[:3])
    assert x80 - x40 == pytest.approx(2 * (x40 - x20), rel=1e-3)
    assert y80 - y40 == pytest.approx(2 * (y40 - y20), rel=1e-3)
    assert not re.search(r"#[0-9a-f]{6}|https?:|<style|<metadata", svg)


def test_a_curve_skips_what_was_not_measured():
    points = [Point(20, 10, 30), None, Point(80, 70, 90)]
    svg = plots.curves([0, 0.02, 0.2], [Series("x", points)], "weight", "%", even=True)
    for text in ("0", "0.02", "0.2", "weight", "%"):
        assert f">{text}</text>" in svg


def test_figures_of_one_page_share_no_ids():
    svg = plots.intervals(["a"], [Series("x", [Point(1, 0, 2)])], "%")
    both = [plots.with_name(svg, name, "what it shows") for name in ("one", "two")]
    ids = [set(re.findall(r'\bid="([^"]*)"', one)) for one in both]
    assert ids[0] and not ids[0] & ids[1]
    for one, own in zip(both, ids, strict=True):
        assert 'role="img" aria-label="what it shows"' in one
        used = re.findall(r'(?:url\(#|href="#)([^")]*)', one)
        assert used and set(used) <= own
