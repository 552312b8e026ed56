import pathlib

import pytest

from train import quote
from train.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_pages_quote_what_the_results_hold():
    pages = {page: (ROOT / page).read_text() for page in quote.PAGES}
    for page, text in pages.items():
        assert quote.fill(text, ROOT / "results") == text, (
            f"{page} is out of step with results/: run `python -m train.quote`"
        )
    for name in quote.BLOCKS:
        assert any(f"<!-- {name} -->" in text for text in pages.values())


def test_blocks_are_replaced_and_the_rest_is_left(monkeypatch, tmp_path):
    monkeypatch.setitem(quote.BLOCKS, "quickstart", lambda results: "new")
    text = "a\n<!-- quickstart -->\nold\n<!-- end quickstart -->\nz"
    expected = "a\n<!-- quickstart -->\nnew\n<!-- end quickstart -->\nz"
    assert quote.fill(text, tmp_path) == expected
    assert quote.fill(expected, tmp_path) == expected


def test_a_missing_result_is_named(tmp_path):
    with pytest.raises(UserError, match=r"quickstart\.json is quoted, but missing"):
        quote.fill("<!-- quickstart -->\n<!-- end quickstart -->", tmp_path)
