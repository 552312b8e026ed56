"""The report, from small results made here and from those of the checkout."""

import functools
import html.parser
import json
import pathlib
import re

import binaries
import jax
import jax.numpy as jnp
import made_up
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


def read(folder, name):
    return json.loads(
        (PRINTED if name == "printed.json" else folder / name).read_text()
    )


def look_up(source, read):
    """What stands at FILE#/json/pointer, found without the report's own code."""
    name, pointer = source.split("#")
    value = read(name)
    for word in pointer.split("/")[1:]:
        value = value[int(word)] if isinstance(value, list) else value[word]
    return value


def edited(page, folder):
    """The sources whose number on the page is not the one in the file."""
    wrong, once = [], functools.cache(functools.partial(read, folder))
    for source, format, text in Page(page).sources:
        values = [look_up(one, once) for one in source.split(" ")]
        if FORMATS[format](*values) != text:
            wrong.append(source)
    return wrong


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    made_up.write(folder, made_up.results())
    pictures = ("samples.png", "explorer.png", "gradients.png", "growth.png")
    for name in (*pictures, "reproduction/choice_resnet56.png"):
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


def test_findings_and_comparisons_are_there(page, folder):
    for text in ("What they found", "BPDA + EOT"):
        assert text in page
    differences = [s for s, f, _ in Page(page).sources if f == "points"]
    printed = [
        row
        for number in (1, 2, 3, 4)
        for row in read(folder, f"reproduction/table{number}.json")["comparison"]
        if row["paper"] is not None
    ]
    assert len(differences) == len(printed) > 10
    assert "Table 2, rerun on CIFAR-10" in page and "disagrees" in page
    for number, setting in ((6, "target rank r"), (11, "keep probability p")):
        assert f"Figure {number}, rerun: accuracy against the {setting}" in page


def test_at_a_glance_has_a_row_for_each_situation_that_was_measured(folder, tmp_path):
    at = lambda page: re.search(r'<section id="headline".*?</section>', page, re.S)[0]
    found = at(make_page(folder)[0])
    assert found.count("<tr>") == 13
    cells = read(folder, "reproduction/table2.json")["cells"]
    (place,) = [
        i
        for i, cell in enumerate(cells)
        if (cell["row"], cell["column"]) == ("SPLIC", "gradient EOT")
    ]
    assert f'data-source="reproduction/table2.json#/cells/{place}"' in found
    assert ">68.5</data>" in found  # what the paper prints for BPDA
    # One table is enough for its rows.
    name = "reproduction/table3.json"
    made_up.write(tmp_path, {name: read(folder, name)})
    page, missing = make_page(tmp_path)
    assert name not in missing
    assert at(page).count("<tr>") == 6
    assert "table2.json" not in at(page)


def test_the_sweep_is_there_with_its_picture(page):
    section = re.search(r'<section id="choice".*?</section>', page, re.S)[0]
    for text in ("separate, lambda 0.02", "Pareto front", "keep probability"):
        assert text in section
    assert section.count("<img") == 1  # of the two networks one has a picture
    for name in made_up.REPRODUCED:
        assert f">{name}</data>" in section


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
    assert re.search(r"\(0\.\d MB\)", done.stdout)
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
