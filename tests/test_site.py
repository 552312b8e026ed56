"""The site builds without a complaint, holds every public function, and is whole."""

import functools
import html.parser
import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What a browser fetches by itself, and where it stands in the tag.
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src"}
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet"]
        + [f"--config-file={ROOT / 'mkdocs.yml'}", f"--site-dir={folder}"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return folder


class Tags(html.parser.HTMLParser):
    """The ids of a page, and what it fetches."""

    def __init__(self, page):
        super().__init__()
        self.ids, self.fetched = set(), []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        if address := attributes.get(FETCHED.get(tag)):
            self.fetched.append(address)


def test_nothing_is_fetched_from_a_network(site):
    for page in site.rglob("*.html"):
        for address in Tags(page).fetched:
            if page.name != "404.html":  # whose addresses count from the site's root
                assert (page.parent / address.partition("?")[0]).exists(), address
    for style in site.rglob("*.css"):
        for address in re.findall(r"url\(([^)]+)\)", style.read_text()):
            address = address.strip("\"'")
            assert address.startswith("data:") or (style.parent / address).exists()


def test_every_public_function_is_on_it(site):
    pages = {page.stem: Tags(page).ids for page in site.glob("reference/*.html")}
    ids = functools.reduce(set.union, pages.values())
    for package in ("splic_jax", "splic_jax.transforms", "attacks"):
        module = importlib.import_module(package)
        assert package in pages
        for name, value in vars(module).items():
            if name.startswith("_") or not callable(value):
                continue
            if name in getattr(module, "__all__", [name]):
                path = f"{value.__module__}.{getattr(value, '__qualname__', name)}"
                assert {path, f"{package}.{name}"} & ids, name


def test_settings_show_their_defaults(site):
    text = (site / "reference" / "splic_jax.html").read_text()
    assert "max_steps: int = 112" in re.sub(r"<[^>]+>", "", text)


def test_formulas_are_mathml(site):
    for name in ("formulas.html", "reference/splic_jax.html"):
        text = (site / name).read_text()
        assert text.count("<math") == text.count("</math>") > 3
    for page in site.rglob("*.html"):
        assert (
            "arithmatex" not in page.read_text() and ".. math::" not in page.read_text()
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(site, scheme):
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} is installed")
    complaints = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"]
        )
        page = browser.new_page(
            viewport={"width": 390, "height": 900}, color_scheme=scheme
        )
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        for path in sorted(site.rglob("*.html")):
            if path.name != "404.html":
                page.goto(path.as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_label("Search", exact=True).first.evaluate("e => e.focus()")
        page.keyboard.type("smoothed rank")
        page.locator(".md-search-result__link").first.wait_for(state="attached")
        browser.close()
    assert complaints == []
