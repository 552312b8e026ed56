"""What a page says where a file of results/ is not there yet."""

from collections.abc import Callable

from train.present.results import Results

Block = Callable[[Results], str]
NO_NUMBER = "(not measured yet)"  # amid the text


def not_yet(what: str) -> str:
    """The line in place of what will be measured."""
    return f"{what} has not been measured yet."


def where_measured(file: str, block: Block) -> Block:
    """A block of a file, or the line that says that the file is not there yet."""
    return lambda results: (
        block(results) if results.has(file) else not_yet(f"`results/{file}`")
    )
