"""Files that people name to be written: checked before the work, and replaced only when done."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from movinet_convert.errors import UsageError, VideoError
from movinet_convert.files.atomic import replacing


def check_output(path: Path, suffixes: Sequence[str], inputs: Iterable[str | Path]) -> None:
    """Refuse a target that would fail, or destroy an input, before any work is done.

    ``path`` must end in one of ``suffixes``, lie in a folder that is there and can be written, and
    be none of ``inputs`` by any of its names: another spelling, a link or a hard link. Raises
    UsageError.
    """
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{path} ends in none of {', '.join(suffixes)}; name it so.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent} for {path.name}; make it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(
            f"The folder {path.parent} cannot be written; name another for {path.name}."
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is there and is not a file; name another.")
    refuse_inputs(path, inputs)


def refuse_inputs(path: Path, inputs: Iterable[str | Path]) -> None:
    """Raise UsageError if ``path`` is one of ``inputs`` by any of its names."""
    for source in inputs:
        if _same_file(path, source):
            raise UsageError(
                f"{path} is {source}, which is to be read, and would be overwritten; name another "
                "file to write."
            )


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """``files.replacing`` whose OSError is one sentence: VideoError, and nothing has changed."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise VideoError(
            f"{path} cannot be written ({error.strerror or error}); nothing was changed there."
        ) from None


def _same_file(path: Path, source: str | Path) -> bool:
    try:
        return path.samefile(source)
    except (OSError, ValueError):  # one of them is not there, or is no path at all
        return False
