import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs_as_shown():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["purified"].shape == names["images"].shape
    assert (names["purified"] != names["images"]).any()


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    links = [x for x in re.findall(r"\]\(([^)#]+)", text) if "://" not in x]
    assert links
    for link in links:
        assert ((ROOT / page).parent / link).exists(), link
