"""A user's mistakes: the binaries report one in one line, with exit code 1."""

import sys
from collections.abc import Callable, Sequence

from absl import app, logging

from splic_jax.layout.batches import NotFiniteError
from train.utils.devices import use_all_cores


class UserError(Exception):
    """A mistake in the input or the flags: what was wrong, where, and what to do."""


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs `main` under absl; a `UserError` becomes one line, Ctrl-C exit code 130."""

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            print(
                f"error: unexpected argument {argv[1]!r}; see --help", file=sys.stderr
            )
            return 1
        # JAX and Orbax log at length what they fail to find.
        logging.set_verbosity(logging.WARNING)
        use_all_cores()
        try:
            return main(argv)
        except (UserError, NotFiniteError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted; run the same command again to resume", file=sys.stderr)
            return 130

    app.run(guarded)
