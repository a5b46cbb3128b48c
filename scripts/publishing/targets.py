"""Where weights are published: repositories of an organisation on the Hub, or a folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from movinet_convert.errors import MovinetError, UsageError, WeightsError
from movinet_convert.files.reading import file_sha256
from movinet_convert.files.writing import move_together, staging_folder
from movinet_convert.weights.hub_files import FILE_NAME, SCHEME, hub_reason
from movinet_convert.weights.manifest import MANIFEST_NAME

Change = Literal["new", "changed", "unchanged"]


class Target(Protocol):
    """Where repositories are, each of a few files."""

    def address(self, name: str) -> str:
        """What ``load_converted`` takes once the repository ``name`` is published."""
        ...

    def changes(self, name: str, files: Path) -> dict[str, Change]:
        """What publishing a folder would do to each of its files; nothing is written."""
        ...

    def publish(self, name: str, files: Path, changes: dict[str, Change], message: str) -> None:
        """Write what is new or changed; MovinetError if that fails."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder with a folder for each repository."""

    path: Path

    def address(self, name: str) -> str:
        return f"{name}/{FILE_NAME}"

    def changes(self, name: str, files: Path) -> dict[str, Change]:
        return {
            file.name: _change(file_sha256(file), _sha256(self.path / name / file.name))
            for file in sorted(files.iterdir())
        }

    def publish(self, name: str, files: Path, changes: dict[str, Change], message: str) -> None:
        folder = self.path / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with staging_folder(folder, "publish") as staging:
                # The manifest, which names the weights, is the entry point, and first.
                ordered = sorted(_differing(changes), key=lambda file: file != MANIFEST_NAME)
                for file in ordered:
                    shutil.copyfile(files / file, staging / file)
                move_together([(staging / file, folder / file) for file in ordered])
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written ({error.strerror or error}); name another --folder."
            ) from None


@dataclass(frozen=True)
class Organisation:
    """Repositories of an organisation, or a user, on the Hub."""

    name: str
    private: bool = False

    def address(self, name: str) -> str:
        return f"{SCHEME}{self._repository(name)}"

    def changes(self, name: str, files: Path) -> dict[str, Change]:
        with _as_sentence(self._repository(name)):
            there = self._there(name)
        return {
            file.name: _change(_oid(file, there.get(file.name)), _oid_there(there.get(file.name)))
            for file in sorted(files.iterdir())
        }

    def publish(self, name: str, files: Path, changes: dict[str, Change], message: str) -> None:
        repository, api = self._repository(name), HfApi()
        additions = [
            CommitOperationAdd(path_in_repo=file, path_or_fileobj=files / file)
            for file in _differing(changes)
        ]
        with _as_sentence(repository):
            api.create_repo(repository, private=self.private or None, exist_ok=True)
            api.create_commit(repository, additions, commit_message=message)

    def _repository(self, name: str) -> str:
        return f"{self.name}/{name}"

    def _there(self, name: str) -> dict[str, RepoFile]:
        try:
            listed = list(HfApi().list_repo_tree(self._repository(name)))
        except RepositoryNotFoundError:
            return {}
        return {file.path: file for file in listed if isinstance(file, RepoFile)}


def _differing(changes: dict[str, Change]) -> list[str]:
    return [file for file, change in changes.items() if change != "unchanged"]


def _change(ours: str, theirs: str | None) -> Change:
    if theirs is None:
        return "new"
    return "unchanged" if ours == theirs else "changed"


def _sha256(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None


def _oid(file: Path, there: RepoFile | None) -> str:
    """The name that the Hub has for a content: sha256 of a large file, else git's of a blob."""
    if there is None or there.lfs is not None:
        return file_sha256(file)
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _oid_there(there: RepoFile | None) -> str | None:
    if there is None:
        return None
    return there.lfs.sha256 if there.lfs is not None else there.blob_id


@contextmanager
def _as_sentence(repository: str) -> Iterator[None]:
    try:
        yield
    except MovinetError:
        raise
    # The client raises errors of several libraries, without a common base.
    except Exception as error:
        raise WeightsError(
            f"{repository} cannot be published on the Hub ({hub_reason(error)}); check the "
            "connection, and that $HF_TOKEN, or hf auth login, may write to it."
        ) from error
