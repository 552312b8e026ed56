"""What things cost, and how near the fast ways come to the exact ones."""

from train.present.results import Results
from train.present.table import Column, Shown, Table, make_table

_TESTS = {
    "cold": "fresh clone, with the installation",
    "warm": "once more",
    "all": "once more, with `--all`",
}


def gradients(results: Results) -> Table:
    """Accuracy and cost of the ways to the gradient of the smoothed rank."""
    file = "gradients.json#"
    kinds = dict.fromkeys(row["matrix"] for row in results.value(f"{file}/failures"))
    sizes = ((32, 16), (256, 1))

    def column(head: str, route: str) -> Column:
        def cell(row: str | tuple[int, int]) -> Shown:
            if isinstance(row, str):
                found = results.find(f"{file}/failures", matrix=row, route=route)
                return found and results.show(found, "gradient error")
            wanted = {"size": row[0], "batch": row[1], "route": route}
            found = results.find(f"{file}/timings", **wanted)
            return found and results.show(f"{found}/ratio_to_closed_form", "times")

        return Column(head, cell)

    def name(row: str | tuple[int, int]) -> str:
        if isinstance(row, str):
            return row
        return f"time, {row[0]} x {row[0]}, batch {row[1]}"

    return make_table(
        results,
        "Gradient of the smoothed rank",
        (
            Column("", name, words=True),
            column("`jax.grad`, stable form", "stable"),
            column("`jax.grad`, through singular values", "singular values"),
            column("`jax.grad`, through singular vectors", "singular vectors"),
        ),
        (*kinds, *sizes),
    )


def parts_of_a_step(results: Results) -> Table:
    """Where the time of a step goes."""
    sides: list[tuple[int, dict[str, str]]] = []
    for step in results.each("speed.json#/profile/step"):
        rows = (row for row in results.each(f"{step}/rows"))
        parts = {
            results.value(f"{row}/name"): row
            for row in rows
            if results.value(f"{row}/kind") != "product"
        }
        sides.append((results.value(f"{step}/side"), parts))

    def flops(parts: dict[str, str]) -> Column:
        def cell(name: str) -> Shown:
            counted = results.value(f"{parts[name]}/multiply_adds")
            return results.show(f"{parts[name]}/gflops", ":.0f") if counted else ""

        return Column("GFLOP/s", cell)

    def shown(head: str, parts: dict[str, str], at: str, format: str) -> Column:
        return Column(head, lambda name: results.show(f"{parts[name]}{at}", format))

    columns = [Column("part of a step", lambda name: name, words=True)]
    for side, parts in sides:
        columns += [
            shown(f"us, {side} x {side}", parts, "/microseconds", ":,.1f"),
            flops(parts),
            shown("% fixed cost", parts, "/share_of_fixed_cost", "percent"),
        ]
    return make_table(results, "A step", columns, sides[0][1])


def attacks(results: Results) -> Table:
    """Images attacked per second, and other libraries' time as a multiple of ours."""
    found: dict[str, dict[str, str]] = {}
    for source in results.each("attacks.json#/rows"):
        row = results.value(source)
        found.setdefault(row["work"], {})[row["library"]] = source
    ours, *others = dict.fromkeys(
        row["library"] for row in results.value("attacks.json#/rows")
    )
    rate = Column("images a second", "/images_per_second", ":,.1f")

    def share(work: object) -> Shown:
        name = "share_of_the_network"
        source = found[work][ours]
        if name not in results.value(source):
            return ""  # the network itself
        return results.show(f"{source}/{name}", "whole percent")

    return make_table(
        results,
        "Attacks",
        (
            Column("attack", lambda work: work, words=True),
            Column(rate.head, lambda work: rate.cell(results, found[work][ours])),
            Column("network's share, %", share),
            *(ratio(results, f"{x}, time", x, found) for x in others),
        ),
        found,
    )


def ratio(results: Results, head: str, library: str, found: dict) -> Column:
    """A library's time as a multiple of ours; nothing where it has no such attack."""

    def cell(work: object) -> Shown:
        source = found[work].get(library)
        return results.show(f"{source}/ratio", "multiple") if source else ""

    return Column(head, cell)


def tests(results: Results) -> Table:
    """What the tests cost."""

    def cases(kind: str) -> Column:
        def cell(row: str) -> Shown:
            return (
                results.show(f"{row}/cases/{kind}", "text") if has(row, kind) else "0"
            )

        return Column(kind, cell)

    def has(row: str, kind: str) -> bool:
        return kind in results.value(f"{row}/cases")

    return make_table(
        results,
        "The tests",
        (
            Column("run", lambda row: _TESTS[row.rpartition("/")[2]], words=True),
            Column("CPU-minutes", "/cpu_minutes", "decimal"),
            Column("of which pytest", "/cpu_minutes_of_pytest", "decimal"),
            Column("minutes", "/wall_minutes", "decimal"),
            cases("passed"),
            cases("skipped"),
        ),
        [f"tests.json#/runs/{name}" for name in results.value("tests.json#/runs")],
    )
