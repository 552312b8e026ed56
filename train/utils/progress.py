"""Shows the progress of long work: a bar on a terminal, a few lines elsewhere.

progress = Progress()                        # Progress(quiet=True) shows nothing
with progress.stage("purifying", total=len(images)) as advance:
    for piece in pieces:
        ...
        advance(len(piece))
progress.line("done")
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress


class Progress:
    """Shows the stages of a run.

    On a terminal a stage is a bar with the time left. Elsewhere (a log file, a pipe) it
    is one line each time another tenth is done, or nothing with ``lines=False``.

    Args:
        quiet: show nothing at all.
        console: where to write; standard output by default.
    """

    def __init__(
        self, *, quiet: bool = False, console: rich.console.Console | None = None
    ):
        self._console = console or rich.console.Console(quiet=quiet)

    def line(self, text: str) -> None:
        """Writes one line, above the bar where there is one."""
        # Off a terminal rich assumes 80 columns and would break longer lines there.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def stage(
        self, name: str, total: int, *, done: int = 0, lines: bool = True
    ) -> Iterator[Callable[..., None]]:
        """Yields ``advance(count=1, note="")``, to be called as the work goes on.

        Args:
            name: what is being done.
            total: how many units there are.
            done: how many of them were done before (an interrupted run resumed).
            lines: whether to write lines where there is no terminal.
        """
        if self._console.is_terminal:
            with self._bar() as bar:
                task = bar.add_task(name, total=total, completed=done, note="")

                def advance(count: int = 1, note: str = "") -> None:
                    bar.update(task, advance=count, note=note)

                yield advance
        else:
            yield self._line_writer(name, total, done, lines)

    def _bar(self) -> rich.progress.Progress:
        return rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
        )

    def _line_writer(
        self, name: str, total: int, done: int, lines: bool
    ) -> Callable[..., None]:
        start, before, tenth = time.monotonic(), done, 10 * done // max(total, 1)

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal done, tenth
            done += count
            if lines and 10 * done // max(total, 1) > tenth:
                tenth = 10 * done // max(total, 1)
                left = (time.monotonic() - start) / (done - before) * (total - done)
                text = f"{name}: {done}/{total}, {left:.0f} s left"
                self.line(f"{text}, {note}" if note else text)

        return advance
