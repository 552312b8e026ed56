"""The pages' links lead somewhere, in the checkout and on the site."""

import pathlib
import re

import pytest
from markdown.extensions.toc import slugify

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")


def anchors(page):
    """The anchors of a page that GitHub and the site agree on."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    github = {re.sub(r"[^\w\- ]", "", x).lower().replace(" ", "-") for x in headings}
    return github & {slugify(x, "-") for x in headings}


def broken(page, text):
    """The links of a page that lead nowhere."""
    found = []
    for file, anchor in LINK.findall(CODE.sub("", text)):
        if "://" in file:
            continue
        target = page.parent / file if file else page
        if not target.is_file() or anchor and anchor not in anchors(target):
            found.append(f"{file}#{anchor}" if anchor else file)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert broken(page, page.read_text()) == []


def test_a_broken_link_is_found():
    page = ROOT / "docs" / "findings.md"
    text = "[a](attacks.md) [b](attack.md) [c](attacks.md#in-the-ball) `[d](none.md)`"
    text += " [e](attacks.md#in-the-bowl) [f](#texture-and-shape) [g](#texture) [h](..)"
    expected = ["attack.md", "attacks.md#in-the-bowl", "#texture", ".."]
    assert broken(page, text) == expected
