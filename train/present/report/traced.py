"""Numbers that know which file they come from.

    results = Results(folder)
    results.show("quickstart.json#/networks/bare/0/accuracy", "percent")

In a page such a number is ``<data data-source="..." data-format="...">78.1</data>``, so
that whoever reads it, a test first of all, can look it up again.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from train.utils.errors import UserError

# The paper's values are no results of ours and stand with the code.
_PRINTED = pathlib.Path(__file__).resolve().parents[2] / "records" / "printed.json"


def _plus_minus(value: Mapping[str, float]) -> str:
    return f"\N{PLUS-MINUS SIGN}{100 * value['half_width']:.1f}"


def _signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _change(value: Mapping[str, float]) -> str:
    mean, half = value["mean"], value["half_width"]
    return f"{_signed(mean, 2)} \N{PLUS-MINUS SIGN}{half:.2f}"


# Name -> text of the value or values of the sources.
FORMATS: Mapping[str, Callable[..., str]] = {
    "text": str,
    "integer": lambda x: f"{x:,}",
    "number": lambda x: f"{x:g}",
    "decimal": lambda x: f"{x:.1f}",
    "two digits": lambda x: f"{x:.2g}",
    "milliseconds": lambda x: f"{1000 * x:.2g}",
    "times": lambda x: f"{x:.2g} x",
    "power": lambda x: f"{x:.0e}",
    "percent": lambda x: f"{100 * x:.1f}",
    "whole percent": lambda x: f"{100 * x:.0f}",
    "printed": lambda x: f"{x:.1f}",  # in % already
    "pixels": lambda x: f"{255 * x:g}/255",
    "interval": lambda x: f"{100 * x[0]:.1f} to {100 * x[1]:.1f}",
    "plus-minus": _plus_minus,
    "change": _change,
    # Of a share and of a printed value in %, in points.
    "difference": lambda ours, printed: _signed(100 * ours - printed),
}


@dataclasses.dataclass(frozen=True)
class Traced:
    """A value as the page shows it.

    Attributes:
        text: what is shown.
        source: ``FILE#/json/pointer``; two, a space between, where it is of two values.
        format: its name in `FORMATS`.
        value: what a table sorts it by.
    """

    text: str
    source: str
    format: str
    value: Any

    def __html__(self) -> str:
        """The element, for Jinja."""
        return Markup(
            '<data value="{}" data-source="{}" data-format="{}">{}</data>'
        ).format(self.value, self.source, self.format, self.text)


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


class Results:
    """The JSON files of a folder, each read when it is first asked for."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._records: dict[str, Any] = {}

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.folder / name).is_file()

    def record(self, name: str) -> Any:
        """The contents of a file.

        Raises:
            UserError: if it cannot be read, or is no JSON.
        """
        if name not in self._records:
            path = _PRINTED if name == _PRINTED.name else self.folder / name
            try:
                self._records[name] = json.loads(path.read_text())
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path} cannot be read ({error}); make it again"
                ) from error
        return self._records[name]

    def value(self, source: str) -> Any:
        """What stands at ``FILE#/json/pointer``.

        Raises:
            UserError: if nothing does.
        """
        name, _, pointer = source.partition("#")
        value = self.record(name)
        try:
            for word in pointer.split("/")[1:]:
                value = value[int(word) if isinstance(value, list) else word]
        except (KeyError, IndexError, ValueError, TypeError):
            raise UserError(
                f"{self.folder / name} has no {pointer}; make it again"
            ) from None
        return value

    def show(self, source: str, format: str) -> Traced:
        """The value as the page shows it; see `FORMATS`."""
        values = [self.value(one) for one in source.split()]
        text = FORMATS[format](*values)
        key = values[0] if isinstance(values[0], int | float | str) else text
        if len(values) == 2:
            key = 100 * values[0] - values[1]
        return Traced(text, source, format, key)

    def each(self, source: str, **wanted: Any) -> list[str]:
        """The sources of those entries of a list that have these values."""
        return [
            f"{source}/{i}"
            for i, entry in enumerate(self.value(source))
            if all(entry.get(name) == value for name, value in wanted.items())
        ]

    def find(self, source: str, **wanted: Any) -> str | None:
        """The source of the first of them, None where there is none."""
        return next(iter(self.each(source, **wanted)), None)
