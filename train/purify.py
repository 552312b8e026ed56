"""Purifies pictures, arrays or a data set with SPLIC.

    python -m train.purify --input=photo.jpg --output=purified.jpg
    python -m train.purify --input=photos --output=purified        # with sub-folders
    python -m train.purify --input=images.npz --output=purified.npz
    python -m train.purify --dataset=shapes --split=test --output=purified.npz

What comes out has the names, sizes and formats of what goes in. An image's mask
follows from --seed and its path below --input, or its index in its array, so its
result is the same alone and among others.

The same command goes on where an interrupted run stopped: what is done is skipped,
as `purify.jsonl` beside the pictures (`<output>.jsonl` for arrays) says, with the PSNR
and SSIM of each image against its input. Nothing else that exists is ever replaced,
unless --overwrite is given. A picture that cannot be read is named and skipped, and the
exit code is 1.
"""

import os
import pathlib
import statistics
from collections.abc import Sequence

import rich.console
import rich.table
from absl import flags

from train import compilation, errors, pictures
from train import flags as shared_flags
from train.errors import UserError
from train.files import printable
from train.progress import Progress
from train.purifier import Purifier, Tally
from train.purify_arrays import SUFFIXES as ARRAY_SUFFIXES
from train.purify_arrays import from_dataset, open_file, purify_arrays
from train.purify_pictures import Source, purify_pictures

FLAGS = flags.FLAGS
# Not beside the results, which belong to the user alone.
_COMPILED = pathlib.Path(__file__).resolve().parents[1] / "out" / "compiled"
_DATA_FLAGS = ("data_dir", "num_train", "num_test", "texture_bias", "split")


def define_flags() -> None:
    """Defines the flags of this binary."""
    shared_flags.define_data_flags()
    shared_flags.define_splic_flags()
    flags.adopt_module_key_flags(shared_flags)  # list them under --help too
    flags.DEFINE_multi_string(
        "input",
        [],
        "a picture, a folder of pictures, or a .npy or .npz file; pictures and folders "
        "can be several, each with its own --input",
    )
    flags.DEFINE_string("output", None, "file or folder for the results")
    flags.DEFINE_enum(
        "split", "test", ["train", "test", "cue_conflict"], "of --dataset"
    )
    flags.DEFINE_integer(
        "seed", 0, "of the masks", lower_bound=0, upper_bound=2**31 - 1
    )
    flags.DEFINE_integer(
        "batch",
        None,
        "images processed at a time; default from size and device",
        lower_bound=1,
    )
    flags.DEFINE_bool("overwrite", False, "replace what is in the way")
    compilation.define_flag("out/compiled in the folder of launch.sh")
    flags.adopt_module_key_flags(compilation)


def find_sources(
    inputs: Sequence[pathlib.Path], output: pathlib.Path, progress: Progress
) -> tuple[list[Source], pathlib.Path]:
    """Returns the pictures to purify, and the folder that their results go to.

    Raises:
        UserError: if there are none, or results would take the place of an input or of
            each other.
    """
    suffix = output.suffix.lower()
    to_file = suffix in (*pictures.FORMATS, *ARRAY_SUFFIXES) and not output.is_dir()
    if to_file and (len(inputs) > 1 or inputs[0].is_dir()):
        raise UserError(f"--output={output} is a file; several pictures need a folder")
    if to_file and suffix in ARRAY_SUFFIXES:
        raise UserError(f"--output={output}: {inputs[0]} is a picture, not an array")

    sources = []
    for path in inputs:
        if path.is_dir():
            if output.resolve().is_relative_to(path.resolve()):
                raise UserError(
                    f"--output={output} is in --input={path}; choose another"
                )
            names = _pictures_below(path, progress)
            sources += [Source(path / name, name, output / name) for name in names]
        elif path.suffix.lower() in ARRAY_SUFFIXES:
            raise UserError(f"--input={path}: an array file must be the only input")
        elif path.suffix.lower() not in pictures.FORMATS:
            raise UserError(
                f"--input={path} must be a folder or end in "
                f"{', '.join(pictures.FORMATS)}, .npy or .npz"
            )
        else:
            target = output if to_file else output / path.name
            sources.append(Source(path, path.name, target))
    if not sources:
        raise UserError(
            f"no pictures in --input={inputs[0]}; they end in "
            f"{', '.join(pictures.FORMATS)}"
        )
    _check_targets(sources)
    return sources, output.parent if to_file else output


def _pictures_below(folder: pathlib.Path, progress: Progress) -> list[str]:
    names, others = [], 0

    def fail(error: OSError) -> None:
        raise UserError(f"cannot read folder {error.filename}: {error.strerror}")

    for parent, _, filenames in os.walk(folder, onerror=fail):
        for filename in filenames:
            path = pathlib.Path(parent, filename)
            if path.suffix.lower() in pictures.FORMATS:
                names.append(path.relative_to(folder).as_posix())
            else:
                others += 1
    if others:
        progress.line(f"{folder}: files left out, no pictures by name: {others}")
    return sorted(names)


def _check_targets(sources: Sequence[Source]) -> None:
    inputs = {_identity(source.path) for source in sources}
    targets = {}
    for source in sources:
        if source.target.exists() and _identity(source.target) in inputs:
            raise UserError(f"--output would overwrite the input {source.target}")
        other = targets.setdefault(source.target, source.path)
        if other is not source.path:
            raise UserError(f"{other} and {source.path} would both be {source.target}")


def _identity(path: pathlib.Path) -> tuple[int, int] | str:
    try:
        status = path.stat()
    except OSError:  # a dangling link, which is named when it is read
        return str(path)
    return status.st_dev, status.st_ino


def _array_target(
    output: pathlib.Path, name: str, source: pathlib.Path | None
) -> pathlib.Path:
    suffix = pathlib.Path(name).suffix
    known = (*pictures.FORMATS, *ARRAY_SUFFIXES)
    if output.is_dir() or output.suffix.lower() not in known:
        output = output / name
    elif output.suffix.lower() != suffix.lower():
        raise UserError(f"--output={output} must end in {suffix}, or be a folder")
    if source and output.exists() and output.samefile(source):
        raise UserError(f"--output would overwrite the input {output}")
    return output


def _purify(console: rich.console.Console) -> Tally:
    if not FLAGS.output:
        raise UserError("give --output, the file or folder for the results")
    has_dataset = FLAGS["dataset"].present
    if has_dataset == bool(FLAGS.input):
        raise UserError("give --input or --dataset, one of them")
    for name in _DATA_FLAGS:
        if FLAGS[name].present and not has_dataset:
            raise UserError(f"--{name} needs --dataset")
    output = pathlib.Path(FLAGS.output)
    inputs = [pathlib.Path(text) for text in FLAGS.input]
    for path in inputs:
        if not path.exists():
            raise UserError(f"--input={path}: no such file or folder")

    purifier = Purifier(shared_flags.splic_config_from_flags(), FLAGS.seed, FLAGS.batch)
    options = {"overwrite": FLAGS.overwrite, "progress": Progress(console=console)}
    if has_dataset:
        dataset = shared_flags.dataset_from_flags(FLAGS.split)
        name = f"{dataset.name}-{FLAGS.split}.npz"
        arrays, target = from_dataset(dataset), _array_target(output, name, None)
        return purify_arrays(arrays, target, purifier, **options)
    if len(inputs) == 1 and inputs[0].suffix.lower() in ARRAY_SUFFIXES:
        target = _array_target(output, inputs[0].name, inputs[0])
        with open_file(inputs[0]) as arrays:
            return purify_arrays(arrays, target, purifier, **options)
    sources, folder = find_sources(inputs, output, options["progress"])
    return purify_pictures(sources, folder, purifier, **options)


def _show(tally: Tally, console: rich.console.Console) -> None:
    table = rich.table.Table(show_header=False)
    table.add_row("images purified", str(tally.done))
    table.add_row("done before", str(tally.before))
    table.add_row("failed, as named above", str(tally.failed))
    if tally.psnr:
        table.add_row("mean PSNR against the input", f"{_mean(tally.psnr):.2f} dB")
    if tally.ssim:
        table.add_row("mean SSIM against the input", f"{_mean(tally.ssim):.4f}")
    if tally.done:
        table.add_row(
            "seconds per image, with compilation", f"{tally.seconds / tally.done:.3g}"
        )
    console.print(table)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def main(argv: Sequence[str]) -> int:
    del argv
    compilation.keep(_COMPILED)
    console = rich.console.Console()
    try:
        tally = _purify(console)
    except UserError as error:
        raise UserError(printable(error)) from error
    _show(tally, console)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    define_flags()
    errors.run(main)
