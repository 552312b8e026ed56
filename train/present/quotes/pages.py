"""The pages that quote results, and what stands in each block of them."""

import functools
import pathlib
import re

from train.present.index import index
from train.present.quotes import accuracy, gpu, paper, speed
from train.present.quotes.absent import Block
from train.present.quotes.choice import CHOICE
from train.present.quotes.noted import NOTED
from train.present.quotes.placed import PLACED
from train.present.results import Results

_DOCS = ("formulas", "performance", "attacks", "defenses", "findings", "protocol")
ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGES = ("README.md", *(f"docs/{page}.md" for page in _DOCS))
BLOCKS: dict[str, Block] = {
    **NOTED,
    **CHOICE,
    "purified": paper.purified,
    "quickstart": accuracy.quickstart,
    "purification_speed": speed.purification,
    "profile": speed.profile,
    "gpu_in_short": gpu.in_short,
    "gpu_speed": gpu.speed,
    "gpu_kernel": gpu.kernel,
    "gpu_compiled": gpu.compiled,
    "gpu_table3": gpu.gray_box,
    "method_table": accuracy.method_table,
    **{
        f"reproduced_table{n}": functools.partial(paper.reproduced_table, n)
        for n in (1, 2, 3, 4)
    },
    **{
        f"reproduced_figure{n}": functools.partial(paper.reproduced_figure, n)
        for n in (6, 7, 9, 11, 12)
    },
}
# Numbers amid the text.
VALUES: dict[str, Block] = {
    "cited_bpda": functools.partial(paper.cited, "ME-Net under BPDA"),
    "cited_eot": functools.partial(paper.cited, "ME-Net under BPDA and EOT"),
    "gap_of_stopping": speed.gap_of_stopping,
    "share_near": speed.share_near,
}
QUOTED = re.compile(
    rf"<!-- (?P<name>{'|'.join([*BLOCKS, *VALUES, *PLACED])})(?: (?P<place>[^>]+?))? "
    r"-->(?P<old>.*?)<!-- end (?P=name) -->",
    re.DOTALL,
)


def fill(text: str, results: Results) -> str:
    """`text` with every block and value replaced by what `results` holds.

    Raises:
        UserError: if a block's file is missing.
    """

    def replace(match: re.Match[str]) -> str:
        name, place = match["name"], match["place"]
        if name in PLACED:
            new = PLACED[name](place, results)
            return f"<!-- {name} {place} -->{new}<!-- end {name} -->"
        if name in VALUES:
            new = VALUES[name](results)
        else:
            new = f"\n{BLOCKS[name](results)}\n"
        return f"<!-- {name} -->{new}<!-- end {name} -->"

    return QUOTED.sub(replace, text)


def write_pages() -> None:
    """Fills the blocks of all pages, and writes that of the results."""
    results = Results(ROOT / "results")
    (results.folder / "README.md").write_text(index(results))
    for page in PAGES:
        path = ROOT / page
        path.write_text(fill(path.read_text(), results))
