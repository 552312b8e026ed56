"""Puts the report together."""

import pathlib

import jinja2
from markupsafe import Markup

from train.present.report.measured import hero
from train.present.report.sections import SECTIONS
from train.present.results import Results, Traced
from train.present.table import sort_key

_FOLDER = pathlib.Path(__file__).resolve().parent


def make_page(folder: pathlib.Path) -> tuple[str, list[str]]:
    """The report as one HTML page, the same for the same results.

    Args:
        folder: of the result files.

    Returns:
        The page, and the names of the files that it does without.

    Raises:
        UserError: for a result file that cannot be read.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = Results(folder)
    parts, missing = [], []
    for section in SECTIONS:
        absent = {n: c for n, c in section.files.items() if not results.has(n)}
        missing += [name for name in absent if name not in missing]
        parts.append(
            {
                "id": section.id,
                "title": section.title,
                "absent": absent,
                "data": None if absent else section.build(results),
            }
        )
    template = environment.get_template("report.html")
    page = template.render(
        sections=parts,
        hero=hero(results),
        show=results.show,
        get=results.get,
        sort_key=sort_key,
        unbroken=unbroken,
        style=_text("report.css"),
        script=_text("report.js"),
    )
    return page, missing


def _text(name: str) -> Markup:
    """A file of ours that goes into the page as it is."""
    return Markup((_FOLDER / "templates" / name).read_text())


def unbroken(text: str | Traced) -> Markup:
    """A command whose lines break between its words only, not at their hyphens."""
    words = Markup(" ").join(
        Markup('<span class="word">{}</span>').format(word)
        for word in str(getattr(text, "text", text)).split()
    )
    if isinstance(text, str):
        return words
    return Markup('<data data-source="{}" data-format="{}">{}</data>').format(
        text.source, text.format, words
    )
