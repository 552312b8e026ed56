"""Turns formulas into MathML while the site is built, so that it needs no script.

Pages write them as `$...$` and `$$...$$`, docstrings as `.. math::`.
"""

import html
import importlib.resources
import re
import textwrap

import latex2mathml.converter
from markdown import Extension
from markdown.preprocessors import Preprocessor
from mkdocs.structure.files import File

FONT = importlib.resources.files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"

DIRECTIVE = re.compile(r"^\.\. math::(.*\n(?:\n*[ \t]+.*(?:\n|$))*)", re.MULTILINE)
DOCTEST = re.compile(r"^>>> .*\n(?:.+\n?)*", re.MULTILINE)
WRITTEN = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)


def on_config(config):
    config.markdown_extensions.append(Docstrings())
    return config


def on_files(files, config):
    files.append(File.generated(config, f"site/{FONT.name}", content=FONT.read_bytes()))
    return files


def on_page_content(content, page, config, files):
    return WRITTEN.sub(_mathml, content)


def _mathml(match):
    display = "block" if match[1] == "div" else "inline"
    formula = html.unescape(match[2]).strip()
    mathml = latex2mathml.converter.convert(formula, display=display)
    return f'<div class="formula">{mathml}</div>' if match[1] == "div" else mathml


class Docstrings(Extension):
    """Formulas and examples as docstrings write them."""

    def extendMarkdown(self, md):
        # Before fenced code blocks, which are taken out at 25 and more.
        md.preprocessors.register(_Directives(md), "docstrings", 100)


class _Directives(Preprocessor):
    def run(self, lines):
        text = DIRECTIVE.sub(_display, "\n".join(lines) + "\n")
        return DOCTEST.sub(_fence, text).split("\n")


def _display(match):
    first, _, rest = match[1].partition("\n")
    body = "\n".join(filter(str.strip, [first, *textwrap.dedent(rest).split("\n")]))
    return f"\n$$\n{body.strip()}\n$$\n\n"


def _fence(match):
    return f"```pycon\n{match[0].rstrip()}\n```\n"
