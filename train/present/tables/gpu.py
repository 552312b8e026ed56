"""What was measured on a GPU, from the files in results/gpu/."""

from collections.abc import Mapping
from typing import Any

from train.present.results import Results, rate_of
from train.present.table import Column, Shown, Table, make_table
from train.present.tables.speed import ratio

NETWORKS = {
    "vanilla": "images as they are",
    "splic": "purified images",
    "fast_at": "attacked images (fast adversarial training)",
    "splic_fast_at": "images attacked through SPLIC, purified",
}
_ROWS = {
    "none": "none",
    "splic_printed": "SPLIC, lambda 0.02",
    "splic_chosen": "SPLIC, lambda 0.15",
    "splic_no_tv": "SPLIC without TV (lambda 0)",
    "tv_minimisation": "TV minimisation",
    "jpeg": "JPEG, quality 75",
    "bilateral": "bilateral",
    "guided": "guided",
}
_WAYS = {"fast": "fast: a kernel", "tracked": "tracked: XLA", "exact": "exact"}


def per_second(row: Mapping[str, Any]) -> float:
    """Images a second of one measurement."""
    return rate_of(row["images"], row["seconds"])


def _measured() -> list[tuple[str, str, str]]:
    """What was measured, by which solver, and where the result file has it."""
    channels = {"separate": "", "concatenated": ", channels concatenated"}
    rows = []
    for part, side, ways in (("speed", 32, (*_WAYS,)), ("large", 224, (*_WAYS,)[1:])):
        for name, words in channels.items():
            for way in ways:
                at = f"/{part}/{way}, {name}"
                rows.append((f"{side} x {side}{words}", way, at))
    rows += [("derivative, 32 x 32", w, f"/gradient/{w}") for w in ("tracked", "exact")]
    return rows


def speed(results: Results) -> Table:
    """Images purified a second."""
    file = "gpu/completion.json#"
    exact = {work: f"{file}{at}" for work, way, at in _measured() if way == "exact"}

    def parts(source: str) -> tuple[str, str]:
        return f"{source}/images", f"{source}/seconds"

    def rate(row: tuple[str, str, str]) -> Shown:
        images, seconds = parts(f"{file}{row[2]}")
        return results.show(images, "rate", seconds)

    def times(row: tuple[str, str, str]) -> Shown:
        images, *others = (*parts(f"{file}{row[2]}"), *parts(exact[row[0]]))
        return results.show(images, "ratio of rates", *others)

    return make_table(
        results,
        "Images purified a second",
        (
            Column("work", lambda row: row[0], words=True),
            Column("way", lambda row: _WAYS[row[1]], words=True),
            Column(
                "images", lambda row: results.show(f"{file}{row[2]}/images", "integer")
            ),
            Column("images a second", rate),
            Column("times exact", times),
        ),
        _measured(),
    )


def compiled(results: Results) -> Table:
    """What XLA makes of the library for an H100, before and after optimisation."""

    def programs(section: str) -> dict[str, str]:
        found = results.each(f"gpu_compile.json#/{section}/programs", item="library")
        return {results.value(f"{source}/program"): source for source in found}

    before, after = programs("before"), programs("after")

    def pair(head: str, at: str, format: str) -> Column:
        def cell(name: str) -> Shown:
            first, second = (f"{of[name]}{at}" for of in (before, after))
            return results.show(first, format, second)

        return Column(head, cell)

    return make_table(
        results,
        "Programs for an H100",
        (
            Column("program", lambda name: name, words=True),
            pair("fusions", "/fusions", "from to"),
            pair("loops that depend on data", "/loops", "loops from to"),
            pair("temporaries, MiB", "/temporaries_mib", "from to"),
        ),
        sorted(before.keys() & after.keys()),
    )


def training(results: Results) -> Table:
    """Training images a second, and accuracy."""

    def source(name: str) -> str:
        return f"gpu/{name}.json#"

    def epoch(name: str) -> Shown:
        first, second = (
            f"{source(name)}/{x}_seconds" for x in ("epoch", "preparation")
        )
        return results.show(first, "seconds an epoch", second)

    def accuracy(head: str, place: int) -> Column:
        def cell(name: str) -> Shown:
            sets = list(results.value(f"{source(name)}/test"))
            kind = "prepared" if name.startswith("splic") else "bare"
            at = f"{source(name)}/test/{sets[place]}/{kind}"
            return results.show(at, "accuracy")

        return Column(head, cell)

    return make_table(
        results,
        "ResNet-18",
        (
            Column("ResNet-18 trained on", lambda name: NETWORKS[name], words=True),
            Column("epochs", lambda n: results.show(f"{source(n)}/epochs", "text")),
            Column("s an epoch", epoch),
            Column(
                "images a second",
                lambda n: results.show(
                    f"{source(n)}/images_per_second", "three digits"
                ),
            ),
            accuracy("clean, JPEG export, %", 0),
            accuracy("clean, 600 originals, %", 1),
        ),
        NETWORKS,
    )


def gray_box(results: Results) -> list[Table]:
    """Table 3 in front of two networks; a caption says which."""
    tables = []
    for name, found in results.value("gpu/gray_box.json#/sets").items():
        at = f"gpu/gray_box.json#/sets/{name}/rows"
        table = make_table(
            results,
            f"{found['network']}, on {found['data']}",
            (
                Column(
                    "in front", lambda row: _ROWS[row.rpartition("/")[2]], words=True
                ),
                Column("clean %", "/clean", "accuracy"),
                Column("FGSM %", "/fgsm", "accuracy"),
                Column("PGD-7 %", "/pgd", "accuracy"),
            ),
            [f"{at}/{row}" for row in found["rows"]],
        )
        tables.append(table)
    return tables


def white_box(results: Results) -> Table:
    """What is left of networks trained behind SPLIC, by how the attacker derives."""
    lists = (
        ("splic", "gpu/bpda.json#/rows"),
        ("splic", "gpu/true_gradient.json#/rows"),
        ("splic_fast_at", "gpu/adaptive_at.json#/networks/splic_fast_at/rows"),
    )
    network = {
        f"{at}/{attack}": name for name, at in lists for attack in results.value(at)
    }

    def averages(row: str) -> bool:
        return row.endswith("eot")

    def words(row: str) -> Shown:
        attack = results.get(f"{row}/attack")
        if not attack:
            return "none"
        true = row.rpartition("/")[2].startswith("true")
        return f"{'own derivative' if true else 'BPDA'}, {attack['words']}"

    def one_mask(row: str) -> str:
        return f"{row}/attacked/one_mask" if averages(row) else row

    def vote(row: str) -> Shown:
        if not averages(row):
            return ""
        return results.show(f"{row}/attacked/majority", "accuracy")

    return make_table(
        results,
        "White-box attacks",
        (
            Column(
                "network trained on", lambda row: NETWORKS[network[row]], words=True
            ),
            Column("attack", words, words=True),
            Column(
                "images", lambda row: results.show(f"{one_mask(row)}/count", "integer")
            ),
            Column("one mask, %", lambda row: results.show(one_mask(row), "accuracy")),
            Column("vote of 9, %", vote),
        ),
        network,
    )


def attack_speed(results: Results) -> Table:
    """Attacks compiled whole, beside loops and other libraries."""
    libraries: dict[str, None] = {}
    found: dict[tuple[str, int], dict[str, str]] = {}
    for source in results.each("gpu/attack_speed.json#/rows"):
        row = results.value(source)
        if "ratio" in row:
            libraries.setdefault(row["library"])
            found.setdefault((row["work"], row["images"]), {})[row["library"]] = source
    ours, *others = libraries
    rate = Column("ours, images a second", "/images_per_second", "three digits")
    return make_table(
        results,
        "Attacks",
        (
            Column("attack", lambda row: row[0], words=True),
            Column("images", lambda row: f"{row[1]:,}"),
            Column(rate.head, lambda row: rate.cell(results, found[row][ours])),
            *(ratio(results, x, x, found) for x in others),
        ),
        found,
    )


def card(record: Mapping[str, Any]) -> str:
    """What the GPU of a result is called."""
    hardware: str = record["provenance"]["hardware"]
    return hardware.partition(" x ")[2].partition(" (")[0]


def flops_an_image(results: Results) -> int:
    """What the matrix products of an image take in the kernel."""
    counted: int = results.value("gpu/work.json#/counts/multiply_adds_per_image")
    return 2 * counted


def rate_at_best(results: Results) -> float:
    """Images a second if all products ran as fast as a large one."""
    peak: float = results.value("gpu/check.json#/float32_tflops")
    return peak * 1e12 / flops_an_image(results)
