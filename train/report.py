"""Makes the report.

    ./launch.sh report --out=out/report.html

One file that opens in any browser, without a network. What it shows is read from the
files in --results; where one is missing the page says which command makes it.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from train.present.report.page import make_page
from train.utils import errors
from train.utils.errors import UserError
from train.utils.files import write_whole

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results"


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_string("out", "out/report.html", "HTML file to write")
    flags.DEFINE_string(
        "results", None, "folder of the result files; default the checkout's results/"
    )


def main(argv: Sequence[str]) -> None:
    del argv
    results = pathlib.Path(FLAGS.results) if FLAGS.results else RESULTS
    if not results.is_dir():
        raise UserError(f"--results={results} is no folder; give that of the results")
    out = pathlib.Path(FLAGS.out)
    page, missing = make_page(results)
    try:
        write_whole(out, page.encode())
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror}; choose another --out"
        ) from error
    for name in missing:
        print(f"left out, as {results / name} is missing")
    print(f"wrote {out} ({len(page.encode()) / 1e6:.1f} MB); open it in a browser")


if __name__ == "__main__":
    define_flags()
    errors.run(main)
