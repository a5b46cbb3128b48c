"""Folders in which files are prepared before they are moved into place.

A folder lies on the same disk as the place its files go to, so that moving them is one step. Its
owner holds a lock in it: a folder whose lock can be had is one that a killed run left behind, and
whoever stages next in the same place removes it.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

LOCK_NAME = ".lock"
PREFIX = ".movinet-"


@contextmanager
def staging_folder(parent: Path, purpose: str) -> Iterator[Path]:
    """A new folder ``parent/.movinet-PURPOSE-xxxxxxxx``, removed with what is left in it.

    ``purpose`` is one word. Dead folders of the same purpose in ``parent`` are removed first,
    nothing else is. Raises OSError where ``parent`` cannot be written.
    """
    _sweep(parent, purpose)
    folder, lock = _create(parent, purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _create(parent: Path, purpose: str) -> tuple[Path, filelock.BaseFileLock]:
    while True:
        folder = parent / f"{PREFIX}{purpose}-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            lock = _acquired(folder)
        except FileNotFoundError:
            continue  # another run took the folder for a dead one before it was locked
        if lock is not None and (folder / LOCK_NAME).exists():
            return folder, lock
        if lock is not None:
            lock.release()


def _sweep(parent: Path, purpose: str) -> None:
    pattern = re.compile(rf"{re.escape(PREFIX + purpose)}-[0-9a-f]{{8}}")
    for folder in parent.iterdir():
        if not pattern.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        try:
            lock = _acquired(folder)
        except OSError:
            continue  # gone meanwhile, or another user's
        if lock is not None:
            # Released only once the folder is gone, so that nobody can lock it in between.
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


def _acquired(folder: Path) -> filelock.BaseFileLock | None:
    """The lock of a folder, or None while its owner holds it."""
    lock = filelock.FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    return lock
