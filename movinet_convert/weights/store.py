"""The store: a folder of converted files and the manifest that lists them.

Readers need no lock: a file is complete before the manifest lists it, the manifest is replaced
atomically, and neither is ever modified in place. Writers prepare their files in their own staging
folder and hold the store's lock while they move them into place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import filelock
import platformdirs
import safetensors

from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.files.reading import file_sha256
from movinet_convert.files.writing import staging_folder
from movinet_convert.weights import manifest as manifests
from movinet_convert.weights.header import SUFFIX
from movinet_convert.weights.manifest import MANIFEST_NAME, ConvertedVersion, Manifest

WEIGHTS_DIR_VARIABLE = "MOVINET_WEIGHTS_DIR"
LOCK_NAME = ".lock"
LOCK_TIMEOUT_SECONDS = 600.0


def store_folder(weights_dir: str | os.PathLike[str] | None = None) -> Path:
    """The given folder, or $MOVINET_WEIGHTS_DIR, or the per-user data folder."""
    chosen = weights_dir or os.environ.get(WEIGHTS_DIR_VARIABLE)
    folder = Path(chosen) if chosen else platformdirs.user_data_path("movinet-convert")
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError:
        # safetensors cannot open such a path: fail before a conversion, not after it.
        raise UsageError(
            f"The name of the folder {str(folder)!a} is not valid UTF-8; use another store."
        ) from None
    return folder


@dataclass(frozen=True)
class Stored:
    """A converted file in a store; ``created`` is False if the same bytes were already there."""

    path: Path
    entry: ConvertedVersion
    created: bool


@dataclass(frozen=True)
class Store:
    """A folder of converted weights; it may be read-only, and is created by the first write."""

    folder: Path

    @property
    def manifest_path(self) -> Path:
        return self.folder / MANIFEST_NAME

    def manifest(self) -> Manifest:
        """The manifest of the store; the catalogue if nothing has been converted."""
        if not self.manifest_path.exists():
            return manifests.catalogue()
        return manifests.read(self.manifest_path)

    def find(self, name: str, version: int | None = None) -> ConvertedVersion:
        """The entry of a variant: the given version, or the one converted last."""
        manifest = self.manifest()
        versions = {entry.version: entry for entry in manifest.versions(name)}
        if not versions:
            arch, mode = name.split("-")
            causal = " --causal" if mode == "stream" else ""
            raise WeightsError(
                f"The store {self.folder} has no weights of {name}; convert them with "
                f"movinet-convert --arch {arch}{causal}, or load them with download=True, or pass "
                f"another folder as weights_dir or ${WEIGHTS_DIR_VARIABLE}."
            )
        current = manifest.variants[name].current_version
        entry = current if version is None else versions.get(version)
        if entry is None:
            raise WeightsError(
                f"The store {self.folder} has no version {version} of {name}, only "
                f"{', '.join(map(str, versions))}."
            )
        return entry

    def listed(self, path: Path) -> tuple[str, ConvertedVersion] | None:
        """Variant and entry of the file at ``path``, which may be a link or another name of it."""
        if self.manifest_path.exists():
            for name, described in self.manifest().variants.items():
                for entry in described.versions:
                    with suppress(OSError):
                        if path.samefile(self.folder / entry.file):
                            return name, entry
        return None

    def is_intact(self, entry: ConvertedVersion) -> bool:
        """Whether the file of an entry has the recorded size and sha256."""
        try:
            check_bytes(self.folder / entry.file, entry)
        except WeightsError:
            return False
        return True

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A temporary folder inside the store, which is created if needed."""
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(staging_folder(self.folder, "store"))
            except OSError as error:
                raise self._unusable(error) from None
            yield folder

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Sync the file that the block writes to disk; WeightsError if that fails."""
        try:
            yield
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        except (OSError, safetensors.SafetensorError) as error:
            raise self._not_written(path.name, error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store's lock for writing."""
        with ExitStack() as stack:
            try:
                lock = filelock.FileLock(self.folder / LOCK_NAME, timeout=LOCK_TIMEOUT_SECONDS)
                stack.enter_context(lock)
            except filelock.Timeout:
                raise WeightsError(
                    f"Another process has held {self.folder} for {LOCK_TIMEOUT_SECONDS:.0f} s; "
                    "wait for it to finish or stop it, then try again."
                ) from None
            except OSError as error:
                raise self._unusable(error) from None
            yield

    def add(self, name: str, staged: Path, **facts: Any) -> Stored:
        """Move a file from a staging folder into the store, as a version of variant ``name``.

        ``facts`` are the other fields of its ``ConvertedVersion``. New bytes become the next
        version; for bytes that are already there only the parity figures are updated, if given. The
        manifest lists only complete files: a process killed at any time leaves the store intact.
        """
        sha256 = file_sha256(staged)
        with self.locked():
            manifest = self.manifest()
            entries = manifest.versions(name)
            same = next((entry for entry in entries if entry.sha256 == sha256), None)
            if same is None:
                version = self._free_version(name, entries, sha256)
                entry = ConvertedVersion(
                    version=version,
                    file=file_name(name, version),
                    bytes=staged.stat().st_size,
                    sha256=sha256,
                    **facts,
                )
            else:
                figures = {key: facts.get(key) for key in ("parity", "parity_as_stored")}
                entry = same.model_copy(update=figures if figures["parity"] else {})
            changed = manifest.with_version(name, entry)
            if same is None or not self.is_intact(same):
                self._commit(changed, staged.parent, {staged: entry.file})
            elif changed != manifest:
                self._commit(changed, staged.parent, {})
        return Stored(self.folder / entry.file, entry, created=same is None)

    def _free_version(self, name: str, entries: tuple[ConvertedVersion, ...], sha256: str) -> int:
        """The next version whose file name is free, or is the name of an identical file.

        A killed process may leave such a file unlisted; any other file is not ours, and is kept.
        """
        for version in count(entries[-1].version + 1 if entries else 1):
            path = self.folder / file_name(name, version)
            if not path.exists() or (path.is_file() and file_sha256(path) == sha256):
                break
        return version

    def _commit(self, manifest: Manifest, staging: Path, files: dict[Path, str]) -> None:
        """Move files into place and list them; all disk space is allocated before."""
        text = manifests.dump(manifest)
        listing = staging / MANIFEST_NAME
        with self.writing(listing):
            listing.write_text(text, "utf-8")
        for source, name in {**files, listing: MANIFEST_NAME}.items():
            try:
                source.replace(self.folder / name)
            except OSError as error:
                raise self._not_written(name, error) from None

    def _unusable(self, error: OSError) -> UsageError:
        return UsageError(
            f"The folder {self.folder} cannot be written ({error.strerror}); "
            "use another with --out."
        )

    def _not_written(self, name: str, error: Exception) -> WeightsError:
        reason = getattr(error, "strerror", None) or str(error)
        return WeightsError(
            f"{self.folder / name} could not be written ({reason}); the store is unchanged: "
            "free some space or use another folder with --out."
        )


def file_name(name: str, version: int) -> str:
    return f"movinet-{name}-v{version}{SUFFIX}"


def check_bytes(path: Path, entry: ConvertedVersion) -> None:
    """Compare a file with the size and sha256 in its entry; WeightsError if they differ."""
    if not path.is_file():
        raise WeightsError(
            f"{path} is listed in {MANIFEST_NAME} but does not exist; convert again."
        )
    for fact, found in (("bytes", path.stat().st_size), ("sha256", file_sha256(path))):
        if found != getattr(entry, fact):
            raise WeightsError(
                f"{path} has {fact} {found}, but the manifest records {getattr(entry, fact)}; it "
                "is damaged or was replaced: delete it and convert again."
            )
