"""Numbers amid the text, named by their place in a table or a file.

<!-- ours table3/SPLIC/PGD -->42.5 % (37.7 to 47.4)<!-- end ours -->
"""

from collections.abc import Callable, Mapping

from train.present.quotes import choice
from train.present.quotes.absent import NO_NUMBER
from train.present.results import Results
from train.present.tables import paper


def _table(place: str) -> tuple[int, str, str]:
    table, row, column = place.split("/")
    return int(table.removeprefix("table")), row, column


def _accuracy(results: Results, source: str) -> str:
    return results.show(source, "accuracy").text.replace(" (", " % (", 1)


def ours(place: str, results: Results) -> str:
    """Our accuracy in a cell of a table of the paper, with its interval."""
    source = paper.ours(results, *_table(place))
    return _accuracy(results, source) if source else NO_NUMBER


def printed(place: str, results: Results) -> str:
    """What the paper prints in a cell for CIFAR-10.

    Raises:
        ValueError: where it prints nothing.
    """
    source = paper.printed(results, *_table(place))
    if source is None:
        raise ValueError(f"the paper prints nothing at {place}")
    return f"{results.show(source, 'printed').text} %"


def verdict(place: str, results: Results) -> str:
    """How many of the printed values of a row lie inside our intervals."""
    table, row = place.split("/")
    file = paper.file_of(int(table.removeprefix("table")))
    if not paper.is_finished(results, file):
        return NO_NUMBER
    rows = [x for x in results.value(f"{file}#/comparison") if x["row"] == row]
    apart, count = paper.outside(rows)
    return f"{count - apart} of {count} printed values lie inside our intervals"


def accuracy(source: str, results: Results) -> str:
    """The accuracy that stands at FILE#/json/pointer, with its interval."""
    return _accuracy(results, source)


# How a quote begins, and what fills it from its place.
PLACED: Mapping[str, Callable[[str, Results], str]] = {
    "ours": ours,
    "printed": printed,
    "verdict": verdict,
    "swept": choice.value,
    "accuracy": accuracy,
}
