"""Programs that JAX compiled, kept on disk for the next run.

    compilation.define_flag("`compiled` in --out")
    compilation.keep(pathlib.Path(FLAGS.out) / "compiled")     # before the first jit

A cache and no more: it may be deleted at any time, several runs may share it, and a
damaged or unwritable one costs the time to compile. Its files are programs, so keep it
where nobody else can write.
"""

import pathlib
import warnings

import jax
from absl import flags

from train.utils.errors import UserError

FLAGS = flags.FLAGS
NONE = "none"


def define_flag(default: str) -> None:
    """Defines --compilation_cache; `default` says in words where it is by default."""
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "folder that keeps what JAX compiled, so that the next run need not; default "
        f"{default}; {NONE} keeps nothing",
    )


def keep(default: pathlib.Path) -> None:
    """Keeps compiled programs where the flag says, or else in the folder `default`.

    JAX's own setting, JAX_COMPILATION_CACHE_DIR, goes before the default.

    Raises:
        UserError: if the folder that the flag names cannot be made.
    """
    given = FLAGS.compilation_cache
    if given == NONE:
        jax.config.update("jax_compilation_cache_dir", None)
        return
    if given:
        folder = pathlib.Path(given)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--compilation_cache={folder}: {error.strerror}; choose another "
                f"folder, or {NONE}"
            ) from error
    elif jax.config.jax_compilation_cache_dir:
        return
    else:
        folder = default
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: there are dozens, and together they take seconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # JAX compiles what it cannot read or write there, and warns each time.
    warnings.filterwarnings(
        "ignore", message="Error (reading|writing) persistent compilation cache"
    )
