"""CITATION.cff is valid, and of the version that the package has."""

import pathlib

import yaml

import splic_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    # What version 1.2.0 of the format asks for.
    for name in ("cff-version", "message", "title", "authors"):
        assert citation[name]
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == splic_jax.__version__
    assert f"## {splic_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    (paper,) = citation["references"]
    assert paper["type"] == "article" and len(paper["authors"]) == 4
