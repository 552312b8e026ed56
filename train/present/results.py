"""Numbers that know which file they come from.

    results = Results(folder)
    results.show("quickstart.json#/networks/bare/0/accuracy", "percent")

In a page such a number is ``<data data-source="..." data-format="...">78.1</data>``, so
that whoever reads it, a test first of all, can look it up again.
"""

import dataclasses
import html
import json
import pathlib
import statistics
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from train.utils.errors import UserError

# The paper's values are no results of ours and stand with the code.
PRINTED = "printed.json"
_RECORDS = pathlib.Path(__file__).resolve().parents[1] / "records"


def _signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _half(value: float, digits: int = 1) -> str:
    return f"\N{PLUS-MINUS SIGN}{value:.{digits}f}"


def _change(digits: int) -> Callable[[Mapping[str, float]], str]:
    return lambda x: f"{_signed(x['mean'], digits)} {_half(x['half_width'], digits)}"


def _accuracy(cell: Mapping[str, Any]) -> str:
    # The files of results/gpu have the ends of the interval by name.
    low, high = cell.get("accuracy_interval") or (cell["low"], cell["high"])
    return f"{100 * cell['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _range(ends: Sequence[float], scale: float) -> str:
    return " to ".join(f"{scale * end:.1f}" for end in ends)


def three_digits(value: float) -> str:
    """A number to three figures, with commas."""
    return f"{float(f'{value:.3g}'):,.10g}"


def rate_of(images: int, seconds: Sequence[float]) -> float:
    """Images a second, by the median of some runs."""
    return images / statistics.median(seconds)


def _gradient_error(row: Mapping[str, Any]) -> str:
    if row["gradient_error"] is None:
        return "NaN"
    second = "" if row["second_derivative_finite"] else ", second NaN"
    return f"{row['gradient_error']:.0e}{second}"


def _epoch(epochs: Sequence[float], preparations: Sequence[float]) -> str:
    # The first one compiles.
    seconds = statistics.median(epochs[1:]) + statistics.median(preparations)
    return f"{seconds:.2f}"


def _data_loops(loops: Sequence[Mapping[str, Any]]) -> int:
    return sum(loop["times"] == "data dependent" for loop in loops)


class _Formats(dict[str, Callable[..., str]]):
    """Name -> text of the value or values of the sources.

    A name that begins with a colon is a format of Python: ":.2f".
    """

    def __missing__(self, name: str) -> Callable[..., str]:
        if not name.startswith(":"):
            raise KeyError(name)
        return lambda value: format(value, name[1:])


FORMATS: Mapping[str, Callable[..., str]] = _Formats(
    {
        "text": str,
        "integer": lambda x: f"{x:,}",
        "number": lambda x: f"{x:g}",
        "decimal": lambda x: f"{x:.1f}",
        "milliseconds": lambda x: f"{1000 * x:.2g}",
        "minutes": lambda x: f"{x / 60:.1f}",
        "times": lambda x: f"{x:.2g} x",
        "percent": lambda x: f"{100 * x:.1f}",
        "whole percent": lambda x: f"{100 * x:.0f}",
        "thousandths of a percent": lambda x: f"{100 * x:.3f}",
        "printed": lambda x: f"{x:.1f}",  # in % already
        "pixels": lambda x: f"{255 * x:g}/255",
        "interval": lambda x: _range(x, 100),
        "printed interval": lambda x: _range(x, 1),
        "accuracy": _accuracy,
        "mean share": lambda x: f"{100 * x['mean']:.1f} {_half(100 * x['half_width'])}",
        "plus-minus": lambda x: _half(100 * x["half_width"]),
        "change": _change(2),
        "change, 3 digits": _change(3),
        "change, 4 digits": _change(4),
        "points": _signed,
        # Of a share and of a printed value in %, in points.
        "difference": lambda ours, printed: _signed(100 * ours - printed),
        "mean percent": lambda *of: f"{100 * statistics.fmean(of):.1f}",
        "mean decimal": lambda *of: f"{statistics.fmean(of):.1f}",
        "two accuracies": lambda *both: ", ".join(f"{100 * x:.1f}" for x in both),
        "SPLIC with": lambda x: f"SPLIC, {x}",
        "settings": lambda x: ", ".join(f"{k}={v}" for k, v in x.items()) or "defaults",
        "gradient error": _gradient_error,
        "three digits": three_digits,
        "rate": lambda images, seconds: three_digits(rate_of(images, seconds)),
        "ratio of rates": lambda *both: (
            f"{rate_of(*both[:2]) / rate_of(*both[2:]):,.1f}"
        ),
        "seconds an epoch": _epoch,
        "multiple": lambda x: f"{x:.2f} x",
        "loops from to": lambda *both: " to ".join(str(_data_loops(x)) for x in both),
        "from to": lambda *both: " to ".join(f"{x:,.0f}" for x in both),
    }
)


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
        value, source, format, text = (
            html.escape(str(x))
            for x in (self.value, self.source, self.format, self.text)
        )
        number, bracket, interval = text.partition(" (")
        if bracket:  # set below the number
            text = f"{number} <small>({interval}</small>"
        return (
            f'<data value="{value}" data-source="{source}" data-format="{format}">'
            f"{text}</data>"
        )


class Results:
    """The JSON files of a folder, each read when it is first asked for.

    Args:
        folder: of the files.
        records: contents by file's name that are used in place of files.
    """

    def __init__(
        self,
        folder: pathlib.Path = pathlib.Path(),
        records: Mapping[str, Any] = types.MappingProxyType({}),
    ):
        self.folder = folder
        self._records: dict[str, Any] = dict(records)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.folder / name).is_file()

    def record(self, name: str) -> Any:
        """The contents of a file.

        Raises:
            UserError: if it cannot be read, or is no JSON.
        """
        if name not in self._records:
            path = (_RECORDS if name == PRINTED else self.folder) / name
            try:
                self._records[name] = json.loads(path.read_text())
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path} cannot be read ({error}); make it again"
                ) from error
        return self._records[name]

    def get(self, source: str) -> Any:
        """The value at ``FILE#/json/pointer``; None if there is none."""
        name, _, pointer = source.partition("#")
        value = self.record(name)
        try:
            for word in pointer.split("/")[1:]:
                value = value[int(word) if isinstance(value, list) else word]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
        return value

    def value(self, source: str) -> Any:
        """The value at ``FILE#/json/pointer``.

        Raises:
            UserError: if there is none.
        """
        value = self.get(source)
        if value is None:
            name, _, pointer = source.partition("#")
            raise UserError(f"{self.folder / name} has no {pointer}; make it again")
        return value

    def show(self, source: str, format: str, *others: str) -> Traced:
        """The value, or the values of several sources, as shown; see `FORMATS`."""
        sources = (source, *others)
        values = [self.value(one) for one in sources]
        text = FORMATS[format](*values)
        return Traced(text, " ".join(sources), format, _key(values, format, text))

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


def _key(values: Sequence[Any], format: str, text: str) -> Any:
    """What a table sorts a value by."""
    if format.startswith("mean ") and len(values) > 1:
        return statistics.fmean(values)
    first = values[0]
    if isinstance(first, Mapping):
        first = first.get("accuracy", first.get("mean"))
    if len(values) == 2 and all(isinstance(x, int | float) for x in values):
        return 100 * values[0] - values[1]
    return first if isinstance(first, int | float | str) else text
