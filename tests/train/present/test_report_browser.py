"""The report of the checkout's results, used in headless Chromium."""

import pathlib
import shutil

import pytest

from train.present.report.page import make_page

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: see requirements.txt"
)
ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# As root Chromium asks for the first; the others keep it from looking for a network.
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PROGRAM = next(filter(None, map(shutil.which, PROGRAMS)), None)
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason=f"no browser: none of {', '.join(PROGRAMS)} is installed"
)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(make_page(ROOT / "results")[0])
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens the page at a width; afterwards there must have been no complaint."""
    complaints, contexts = [], []

    def open_page(width=1280, **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:"))
                or complaints.append(request.url)
            ),
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize(
    "scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(opened, width, scheme):
    page = opened(width, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, ground[4:-1].split(","))) > 3 * 128
    assert light == (scheme == "light")
    # Text is legible in plots too, whatever they are scaled to.
    sizes = page.evaluate(
        """[...document.querySelectorAll('.plot svg')].map(svg =>
             8.5 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"""
    )
    assert sizes and min(sizes) >= 9


def test_the_slider_works_by_keyboard(opened):
    page = opened()
    slider = page.locator("#see-slider")
    layers = page.locator("#viewer .layer")

    def visible():
        return [
            layers.nth(i).evaluate("e => getComputedStyle(e).visibility") == "visible"
            for i in range(3)
        ]

    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "clean"
    assert visible() == [True, True, False]
    assert layers.nth(1).evaluate("e => e.style.clipPath").startswith("inset(0")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert (
        slider.get_attribute("aria-valuetext") == "50 percent attacked, the rest clean"
    )
    assert "50%" in layers.nth(1).evaluate("e => e.style.clipPath")
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "purified"
    assert visible() == [False, True, True]
    page.get_by_role("button", name="attacked", exact=True).press("Enter")
    assert slider.input_value() == "100"


def test_another_image_and_network_have_their_answers(opened):
    page = opened()
    panels = page.locator(".answers:visible")
    assert panels.count() == 1
    before = panels.inner_text()
    page.locator("input[name=see-image]:checked").focus()
    page.keyboard.press("ArrowRight")
    after = panels.inner_text()
    assert panels.count() == 1 and after != before
    page.locator("input[name=see-network]:checked").focus()
    page.keyboard.press("ArrowDown")
    assert "trained on purified images" in panels.inner_text()


def test_the_explorer_shows_what_the_table_says(opened):
    page = opened()
    shown = page.locator("#explorer .facts").first
    seen = set()
    for knob in ("rank", "tv_weight", "keep_probability"):
        page.locator(f"#knob-{knob}").focus()
        page.keyboard.press("Home")
    for press in ("Home", "ArrowRight", "ArrowRight"):
        page.locator("#knob-rank").press(press)
        ticks = page.locator("#explorer .ticks .now").all_inner_texts()
        row = page.evaluate(
            """wanted => [...document.querySelectorAll('tr[data-setting]')]
                 .filter(row => wanted.every((text, i) =>
                   row.cells[i].textContent === text))
                 .map(row => row.querySelector('.found').textContent)""",
            ticks,
        )
        assert row == [shown.text_content()]
        seen.add(page.locator("#explorer .result").first.get_attribute("style"))
    assert len(seen) == 3


def test_tables_sort_by_click_and_by_enter(opened):
    page = opened()
    table = page.locator("#quickstart table")
    heading = table.locator("thead button").nth(3)

    def numbers():
        keys = table.locator("tbody tr td:nth-child(4)").evaluate_all(
            "cells => cells.map(cell => cell.dataset.sort)"
        )
        return [float(key) if key else None for key in keys]

    before = numbers()
    measured = sorted(value for value in before if value is not None)
    absent = [None] * (len(before) - len(measured))
    heading.click()
    assert numbers() == measured + absent
    heading.press("Enter")
    assert numbers() == measured[::-1] + absent
    assert table.locator("th[aria-sort=descending]").count() == 1
    names = table.locator("thead button").nth(1)
    names.click()
    found = table.locator("tbody tr td:nth-child(2)").all_inner_texts()
    assert found == sorted(found, key=str.lower)


def test_print_shows_everything_and_cuts_nothing_off(opened):
    page = opened(680)  # A4 between its margins
    page.emulate_media(media="print")
    hidden = page.evaluate(
        """[...document.querySelectorAll(
               'details > :not(summary), .answers, table, svg')]
             .filter(e => !e.checkVisibility({contentVisibilityAuto: true})
               || e.getBoundingClientRect().height === 0).length"""
    )
    assert hidden == 0
    for control in ("#see-slider", "#explorer", "nav"):
        assert page.locator(control).is_hidden()
    cut = page.evaluate(
        """[...document.querySelectorAll('main *')]
             .filter(e => e.getBoundingClientRect().right > innerWidth + 1
               && !e.closest('svg'))
             .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert cut == []
    scrolling = page.evaluate(
        """[...document.querySelectorAll('.scroll')]
             .filter(e => getComputedStyle(e).overflowX !== 'visible').length"""
    )
    assert scrolling == 0


def test_works_without_javascript(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("#see-slider").is_hidden()
    assert page.locator(".answers").count() == page.locator(".answers:visible").count()
    assert page.locator(".answers").count() > 1
