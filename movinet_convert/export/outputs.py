"""The files of an export: their names, and how they are moved into place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from movinet_convert.errors import ExportError, UsageError
from movinet_convert.files.writing import move_together, staging_folder

_TYPE = re.compile(r"\.[a-z][a-z0-9]*")
# A name with one of these suffixes is not that of a folder.
SUFFIXES = (
    *(".pt2", ".onnx", ".xml", ".bin", ".pte", ".tflite", ".pb", ".index"),
    *(".safetensors", ".pt", ".pth", ".ckpt", ".h5", ".hdf5", ".npz", ".tar", ".gz", ".tgz"),
)


def file_names(path: Path, suffixes: Sequence[str], name: str, format: str) -> list[Path]:
    """The files of an export to ``path``, one per suffix; the first is the one to open.

    The first suffix is appended unless ``path`` ends in it; in a folder the file is called
    ``name``. Raises UsageError for another suffix (a number is part of the name), and if a file
    that was not named would be overwritten.
    """
    first = suffixes[0]
    suffix = path.suffix.lower()
    if path.is_dir() and suffix not in SUFFIXES:
        path, suffix = path / name, ""
    if _TYPE.fullmatch(suffix) and suffix != first:
        raise UsageError(
            f"{path} ends in {path.suffix}, but {format} writes {first}; name it "
            f"{path.with_suffix(first).name}, or omit the suffix."
        )
    stem = path.name[: -len(first)] if suffix == first else path.name
    opened = path if suffix == first else path.with_name(stem + first)
    files = [opened, *(path.with_name(stem + other) for other in suffixes[1:])]
    for file in files:
        if file.is_dir():
            raise UsageError(f"{file} is a folder; name another file.")
        if file.exists() and not opened.exists():
            raise UsageError(
                f"{file} exists without the {opened.name} that it belongs to, and would be "
                f"overwritten; name another file than {opened.name}."
            )
    return files


def empty_folder(path: Path, format: str) -> Path:
    """The folder of an export; UsageError for the name of a file, and a folder with files."""
    folder = folder_name(path, format)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder; name a new one.")
    return folder


def folder_name(path: Path, format: str) -> Path:
    """The folder of an export; UsageError for the name of a file."""
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        raise UsageError(f"{path} ends in {path.suffix}, but {format} writes a folder; name one.")
    return path


def contents(path: Path) -> list[Path]:
    """The file, or every file in the folder."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


@contextmanager
def staged(files: Sequence[Path], format: str) -> Iterator[Path]:
    """A temporary name for the first of ``files``; all are moved into place together.

    The others are expected next to it with their own suffixes. If the block raises, nothing is
    changed. Raises ExportError if the files cannot be written.
    """
    with _staging(files[0].parent, format) as folder:
        written = folder / f"network{files[0].suffix.lower()}"
        yield written
        move_together([(written.with_suffix(file.suffix.lower()), file) for file in files])


@contextmanager
def staged_folder(folder: Path, format: str) -> Iterator[Path]:
    """A temporary name for ``folder``, which must not exist or be empty; moved into place after.

    Raises ExportError if the folder cannot be written.
    """
    folder = folder.absolute()
    with _staging(folder.parent, format) as staging:
        yield staging / "written"
        if folder.is_dir():
            folder.rmdir()
        (staging / "written").rename(folder)


@contextmanager
def _staging(parent: Path, format: str) -> Iterator[Path]:
    with explained(parent, format, OSError, SafetensorError):
        parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(parent, "export") as folder:
            yield folder


@contextmanager
def explained(parent: Path, format: str, *kinds: type[Exception]) -> Iterator[None]:
    """Raise errors caused by a full disk or missing permissions as ExportError."""
    try:
        yield
    except kinds as error:
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        try:
            free = f"; {shutil.disk_usage(parent).free / 1e6:,.0f} MB are free there"
        except OSError:
            free = ""
        raise ExportError(
            f"{format} could not be written into {parent} ({reason or type(error).__name__}"
            f"{free}); existing files are unchanged."
        ) from error
