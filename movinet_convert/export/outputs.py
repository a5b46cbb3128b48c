"""Where exports go: their names, what must not be overwritten, and the way there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from movinet_convert.errors import ExportError, UsageError
from movinet_convert.files.writing import move_together, staging_folder

PURPOSE = "export"
# Of files that are written or read here: a name that ends in one says what it is to be.
SUFFIXES = (
    *(".pt2", ".onnx", ".xml", ".bin", ".pte", ".tflite", ".pb", ".index"),
    *(".safetensors", ".pt", ".pth", ".ckpt", ".h5", ".hdf5", ".npz", ".tar", ".gz", ".tgz"),
)


def file_names(path: Path, suffixes: Sequence[str], name: str, format: str) -> list[Path]:
    """The files of an export to ``path``, one for each suffix, the one that is opened first.

    The first suffix is appended unless ``path`` ends in it; in a folder the file gets ``name``.
    Raises UsageError for a name that ends in the suffix of something else, and where a file would
    be overwritten that nobody named.
    """
    first = suffixes[0]
    if path.is_dir() and path.suffix.lower() not in SUFFIXES:
        path = path / name
    stem = path.name
    if path.suffix.lower() == first:
        stem = path.name[: -len(first)]
    elif path.suffix.lower() in SUFFIXES:
        raise UsageError(
            f"{path} ends in {path.suffix}, but {format} writes {first}; name it "
            f"{path.with_suffix(first).name}, or leave the suffix out."
        )
    else:
        path = path.with_name(f"{path.name}{first}")
    files = [path, *(path.with_name(f"{stem}{suffix}") for suffix in suffixes[1:])]
    for file in files:
        if file.is_dir():
            raise UsageError(f"{file} is a folder where a file was to go; name another.")
    if not path.exists():
        for file in files[1:]:
            if file.exists():
                raise UsageError(
                    f"{file} is there without a {path.name} that it belongs to, and would be "
                    f"overwritten; name another file than {path.name}."
                )
    return files


def folder_name(path: Path, format: str) -> Path:
    """The folder of an export; UsageError for the name of a file."""
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        raise UsageError(f"{path} ends in {path.suffix}, but {format} writes a folder; name one.")
    return path


@contextmanager
def staged(files: Sequence[Path], format: str) -> Iterator[Path]:
    """A name in a folder beside ``files`` for the first of them; all take their places together.

    The others are expected beside it with their own suffixes. Where the block raises, nothing has
    changed. Raises ExportError where the disk does not take the files.
    """
    parent = files[0].parent
    with explained(parent, format, OSError):
        parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(parent, PURPOSE) as folder:
            written = folder / f"network{files[0].suffix.lower()}"
            yield written
            move_together([(written.with_suffix(file.suffix.lower()), file) for file in files])


@contextmanager
def staged_folder(folder: Path, format: str) -> Iterator[Path]:
    """A new folder beside ``folder``, which takes its place; that must not be there, or be empty.

    Raises ExportError where the disk does not take it.
    """
    folder = folder.absolute()
    with explained(folder.parent, format, OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(folder.parent, PURPOSE) as staging:
            written = staging / "written"
            yield written
            if folder.is_dir():
                folder.rmdir()
            written.rename(folder)


@contextmanager
def explained(parent: Path, format: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what a full disk or a missing permission raises into one sentence: ExportError."""
    try:
        yield
    except kinds as error:
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        raise ExportError(
            f"{format} could not be written into {parent} ({reason or type(error).__name__}"
            f"{_free(parent)}); what was there is unchanged."
        ) from error


def _free(folder: Path) -> str:
    try:
        return f"; {shutil.disk_usage(folder).free / 1e6:,.0f} MB are free there"
    except OSError:
        return ""
