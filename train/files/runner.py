"""Finds the files to purify, purifies them, and prints a summary."""

import os
import pathlib
from collections.abc import Sequence
from statistics import fmean

import rich.console

from train.data.loading import Dataset
from train.files import codecs
from train.files.arrays import SUFFIXES as ARRAY_SUFFIXES
from train.files.arrays import from_dataset, open_file, purify_arrays
from train.files.classified import classified
from train.files.pictures import Source, purify_pictures
from train.files.pieces import Purifier, Tally
from train.networks.classifier import Classifier
from train.present.table import Column, Table
from train.present.terminal import for_terminal
from train.utils.errors import UserError
from train.utils.progress import Progress


def purify_files(
    inputs: Sequence[pathlib.Path],
    output: pathlib.Path,
    purifier: Purifier,
    *,
    overwrite: bool = False,
    network: Classifier | None = None,
) -> Tally:
    """Purifies pictures, folders of pictures, or one file of arrays.

    Args:
        inputs: pictures and folders, or one ``.npy`` or ``.npz`` file.
        output: file or folder for the results.
        purifier: with which settings.
        overwrite: replace what is in the way.
        network: whose predictions for each picture are printed; None prints none.

    Raises:
        UserError: for what cannot be purified, or is in the way.
    """
    for path in inputs:
        if not path.exists():
            raise UserError(f"--input={path}: no such file or folder")
    console = rich.console.Console()
    progress = Progress(console=console)
    if len(inputs) == 1 and inputs[0].suffix.lower() in ARRAY_SUFFIXES:
        if network:
            raise UserError(f"--classify is for pictures, not for --input={inputs[0]}")
        target = _array_target(output, inputs[0].name, inputs[0])
        with open_file(inputs[0]) as arrays:
            tally = purify_arrays(
                arrays, target, purifier, overwrite=overwrite, progress=progress
            )
    else:
        sources, folder = find_sources(inputs, output, progress)
        tally = purify_pictures(
            sources, folder, purifier, overwrite=overwrite, progress=progress
        )
        if network:
            console.print(for_terminal(classified(network, sources)))
    _show(tally, console)
    return tally


def purify_dataset(
    dataset: Dataset,
    split: str,
    output: pathlib.Path,
    purifier: Purifier,
    *,
    overwrite: bool = False,
) -> Tally:
    """Purifies a split of a data set into an ``.npz`` file; else as `purify_files`."""
    console = rich.console.Console()
    target = _array_target(output, f"{dataset.name}-{split}.npz", None)
    tally = purify_arrays(
        from_dataset(dataset),
        target,
        purifier,
        overwrite=overwrite,
        progress=Progress(console=console),
    )
    _show(tally, console)
    return tally


def find_sources(
    inputs: Sequence[pathlib.Path], output: pathlib.Path, progress: Progress
) -> tuple[list[Source], pathlib.Path]:
    """Returns the pictures to purify, and the folder that their results go to.

    Raises:
        UserError: if there are none, or results would take the place of an input or of
            each other.
    """
    suffix = output.suffix.lower()
    to_file = suffix in (*codecs.FORMATS, *ARRAY_SUFFIXES) and not output.is_dir()
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
        elif path.suffix.lower() not in codecs.FORMATS:
            raise UserError(
                f"--input={path} must be a folder or end in "
                f"{', '.join(codecs.FORMATS)}, .npy or .npz"
            )
        else:
            target = output if to_file else output / path.name
            sources.append(Source(path, path.name, target))
    if not sources:
        raise UserError(
            f"no pictures in --input={inputs[0]}; they end in "
            f"{', '.join(codecs.FORMATS)}"
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
            if path.suffix.lower() in codecs.FORMATS:
                names.append(path.relative_to(folder).as_posix())
            else:
                others += 1
    if others:
        progress.line(f"{folder}: files left out, not named as pictures: {others}")
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
    known = (*codecs.FORMATS, *ARRAY_SUFFIXES)
    if output.is_dir() or output.suffix.lower() not in known:
        output = output / name
    elif output.suffix.lower() != suffix.lower():
        raise UserError(f"--output={output} must end in {suffix}, or be a folder")
    if source and output.exists() and output.samefile(source):
        raise UserError(f"--output would overwrite the input {output}")
    return output


def _show(tally: Tally, console: rich.console.Console) -> None:
    rows = [
        ("images purified", str(tally.done)),
        ("done before", str(tally.before)),
        ("failed, as named above", str(tally.failed)),
    ]
    if tally.psnr:
        rows.append(("mean PSNR against the input", f"{fmean(tally.psnr):.2f} dB"))
    if tally.ssim:
        rows.append(("mean SSIM against the input", f"{fmean(tally.ssim):.4f}"))
    if tally.done:
        each = tally.seconds / tally.done
        rows.append(("seconds per image, with compilation", f"{each:.3g}"))
    columns = (Column("what", words=True), Column("value"))
    console.print(for_terminal(Table("", columns, tuple(rows))))
