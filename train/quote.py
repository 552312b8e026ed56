"""Writes the tables that README.md and docs/ quote from the files in results/.

    python -m train.quote

Each stands between a pair of comments, ``<!-- name -->`` and ``<!-- end name -->``;
what lies between them is replaced. A test fails where the two differ.
"""

from collections.abc import Sequence

from train.present.quotes.pages import write_pages
from train.utils import errors


def main(argv: Sequence[str]) -> None:
    del argv
    write_pages()


if __name__ == "__main__":
    errors.run(main)
