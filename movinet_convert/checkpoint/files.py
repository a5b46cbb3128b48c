"""Where the files of a checkpoint are: a folder on disk or an archive, seen the same way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from movinet_convert.checkpoint.blob import Blob
from movinet_convert.errors import CheckpointError


class FileTree(Protocol):
    """Files by relative POSIX name."""

    @property
    def where(self) -> str:
        """What messages call it."""

    def names(self) -> tuple[str, ...]:
        """The files in it, down to one folder below the top."""

    def open(self, name: str) -> Blob:
        """The file called ``name``; CheckpointError if it is missing or cannot be read."""


@dataclass(frozen=True)
class Folder:
    """A folder on disk."""

    path: Path

    @property
    def where(self) -> str:
        return str(self.path)

    def names(self) -> tuple[str, ...]:
        try:
            found = [*self.path.glob("*"), *self.path.glob("variables/*")]
            # Pipes and devices too: opening one says what it is, where leaving it out would not.
            return tuple(sorted(p.relative_to(self.path).as_posix() for p in found if is_there(p)))
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be listed ({error.strerror or error})."
            ) from error

    def open(self, name: str) -> Blob:
        path = self.path / name
        if not is_there(path):
            raise missing(str(path), self.where)
        return Blob.of_path(path)


def is_there(path: Path) -> bool:
    """Whether anything but a folder is at ``path``; links are followed, and no name raises."""
    return os.path.exists(path) and not is_folder(path)  # noqa: PTH110  Path's method may raise


def is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112


def missing(name: str, where: str) -> CheckpointError:
    """The error for a file that a checkpoint needs and ``where`` does not have."""
    return CheckpointError(
        f"{name} is missing; the checkpoint in {where} is incomplete: copy or download all of "
        "its files."
    )
