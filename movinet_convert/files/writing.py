"""Write files atomically: targets are checked first and replaced only by complete files."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from movinet_convert.errors import MovinetError, UsageError

LOCK_NAME = ".lock"


@contextmanager
def replacing(
    path: str | os.PathLike[str], error: type[MovinetError] | None = None
) -> Iterator[Path]:
    """Yield a temporary path in the same folder, whose file then replaces ``path`` atomically.

    The file has the same suffix, the permissions of the user's umask, and is synced to disk before
    it is moved; if the block raises, ``path`` is unchanged and the temporary file is removed. A
    link at ``path`` is replaced, not followed. Raises OSError, or ``error`` instead if given.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem[:100]}.{secrets.token_hex(4)}{target.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as problem:
        if error is None:
            raise
        raise error(
            f"{path} cannot be written ({problem.strerror or problem}); it is unchanged."
        ) from None


def move_together(moves: Sequence[tuple[Path, Path]]) -> None:
    """Move files that belong together, as (from, to), over an earlier set of the same names.

    The first file is the entry point, which refers to the others. Two sets are never mixed, even
    if the process is killed. An earlier set of several files is first renamed to
    ``NAME.previous-xxxxxxxx``, restored if anything fails and removed at the end; it keeps that
    name if the process is killed in between. Raises OSError.
    """
    for written, _ in moves:
        _sync(written)
    if len(moves) == 1:
        ((written, target),) = moves
        written.replace(target)
        return
    token = secrets.token_hex(4)
    with ExitStack() as undo:
        backups = []
        for _, target in reversed(moves):  # the entry point last; undo restores it first
            if target.exists() or target.is_symlink():
                backup = target.with_name(f"{target.stem}.previous-{token}{target.suffix}")
                target.rename(backup)
                undo.callback(backup.rename, target)
                backups.append(backup)
        for written, target in moves:
            written.rename(target)
            undo.callback(target.rename, written)
        undo.pop_all()
    for backup in backups:
        backup.unlink()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def check_output(path: Path, suffixes: Sequence[str], inputs: Iterable[str | Path]) -> None:
    """Check, before any work is done, that a file can be written and is not an input.

    ``path`` must end in one of ``suffixes``, be in an existing writable folder, and not be one of
    ``inputs`` under any name (another spelling, a link, a hard link). Raises UsageError.
    """
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{path} must end in {' or '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent} for {path.name}; create it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(
            f"The folder {path.parent} is not writable; choose another for {path.name}."
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} exists and is not a file; name another.")
    refuse_inputs(path, inputs)


def refuse_inputs(path: Path, inputs: Iterable[str | Path]) -> None:
    """Raise UsageError if ``path`` is one of ``inputs`` under any name."""
    for source in inputs:
        try:
            same = path.samefile(source)
        except (OSError, ValueError):  # one of them does not exist, or is not a valid path
            continue
        if same:
            raise UsageError(
                f"{path} is the input {source} and would be overwritten; name another output file."
            )


@contextmanager
def staging_folder(parent: Path, purpose: str) -> Iterator[Path]:
    """Yield a new folder ``parent/.movinet-PURPOSE-xxxxxxxx``, removed with its contents.

    Files are prepared there, on the same file system as their targets, so that each is moved
    atomically. A lock marks the folder as in use: folders of the same ``purpose`` (one word) in
    ``parent`` whose lock is free were left by a killed process, and are removed first. Raises
    OSError if ``parent`` cannot be written.
    """
    _remove_abandoned(parent, purpose)
    folder, lock = _create_locked(parent, purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _create_locked(parent: Path, purpose: str) -> tuple[Path, filelock.BaseFileLock]:
    while True:
        folder = parent / f".movinet-{purpose}-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            lock = _try_lock(folder)
        except FileNotFoundError:
            continue  # another process removed it as abandoned before it was locked
        if lock is not None and (folder / LOCK_NAME).exists():
            return folder, lock
        if lock is not None:
            lock.release()


def _remove_abandoned(parent: Path, purpose: str) -> None:
    pattern = re.compile(rf"\.movinet-{re.escape(purpose)}-[0-9a-f]{{8}}")
    for folder in parent.iterdir():
        if not pattern.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        try:
            lock = _try_lock(folder)
        except OSError:
            continue  # removed meanwhile, or another user's
        if lock is not None:
            # Released only after the removal, so that no process can lock it in between.
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


def _try_lock(folder: Path) -> filelock.BaseFileLock | None:
    """The lock of a folder, or None if another process holds it."""
    lock = filelock.FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    return lock
