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
import safetensors

from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.files.reading import file_sha256
from movinet_convert.files.writing import staging_folder
from movinet_convert.variants import VARIANTS
from movinet_convert.weights import manifest as manifests
from movinet_convert.weights.entries import ConvertedVersion
from movinet_convert.weights.manifest import MANIFEST_NAME, Manifest
from movinet_convert.weights.naming import (
    WEIGHTS_DIR_VARIABLE,
    check_own_name,
    file_name,
    unknown_name,
)

LOCK_NAME = ".lock"
LOCK_TIMEOUT_SECONDS = 600.0


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
        """The entry of a name: the given version, or the one converted last.

        Raises UsageError for a name that is not a variant and not in the store, WeightsError if
        there is no such version.
        """
        manifest = self.manifest()
        versions = {entry.version: entry for entry in manifest.versions(name)}
        if not versions and name not in VARIANTS:
            raise unknown_name(name, manifest.named)
        if not versions:
            arch, mode = name.split("-")
            causal = " --causal" if mode == "stream" else ""
            raise WeightsError(
                f"The store {self.folder} has no weights of {name}; convert them with "
                f"movinet-convert --arch {arch}{causal}, or load them with download=True, or pass "
                f"another folder as weights_dir or ${WEIGHTS_DIR_VARIABLE}."
            )
        known = manifest.entry(name)
        current = known.current_version if known else None
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
            manifest = self.manifest()
            for name, variant in manifest.converted.items():
                for entry in manifest.versions(name):
                    with suppress(OSError):
                        if path.samefile(self.folder / entry.file):
                            return variant, entry
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

    def check_name(self, name: str, variant: str) -> None:
        """Raise UsageError unless weights of a variant can be stored under this name."""
        if name == variant:
            return
        check_own_name(name)
        known = self.manifest().named.get(name)
        if known is not None and known.variant != variant:
            raise UsageError(
                f"{name} in the store {self.folder} is of {known.variant}, and these weights are "
                f"of {variant}; choose another name, or remove it with movinet-convert remove "
                f"{name} --all."
            )

    def add(self, name: str, staged: Path, *, variant: str | None = None, **facts: Any) -> Stored:
        """Move a file from a staging folder into the store, as a version of ``name``.

        ``name`` is the variant, or a name for weights of ``variant`` that the user chose.
        ``facts`` are the other fields of its ``ConvertedVersion``. New bytes become the next
        version; for bytes that are already there only the parity figures are updated, if given. The
        manifest lists only complete files: a process killed at any time leaves the store intact.
        """
        sha256 = file_sha256(staged)
        with self.locked():
            self.check_name(name, variant or name)
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
            changed = manifest.with_version(name, entry, variant)
            if same is None or not self.is_intact(same):
                self._commit(changed, staged.parent, {staged: entry.file})
            elif changed != manifest:
                self._commit(changed, staged.parent, {})
        return Stored(self.folder / entry.file, entry, created=same is None)

    def remove(
        self, name: str, version: int | None = None, *, every: bool = False
    ) -> tuple[ConvertedVersion, ...]:
        """Remove a version of ``name``, or every one, and return what was removed.

        ``version`` may be None where there is only one. Readers that have a file open keep it.
        Raises as ``find``, UsageError where it is not said which version is meant.
        """
        self.find(name, version)  # without a store, there is nothing to lock
        with self.locked(), self.staging() as staging:
            entry = self.find(name, version)
            manifest = self.manifest()
            versions = manifest.versions(name)
            if version is None and not every and len(versions) > 1:
                known = ", ".join(f"{name}@{each.version}" for each in versions)
                raise UsageError(
                    f"{name} has {len(versions)} versions in {self.folder}; name one of {known}, "
                    "or pass --all."
                )
            gone = versions if every else (entry,)
            # First from the manifest: what it lists exists, whenever the process is killed.
            self._commit(manifest.without(name, [each.version for each in gone]), staging, {})
            for each in gone:
                (self.folder / each.file).unlink(missing_ok=True)
        return gone

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
            "use another with --weights-dir."
        )

    def _not_written(self, name: str, error: Exception) -> WeightsError:
        reason = getattr(error, "strerror", None) or str(error)
        return WeightsError(
            f"{self.folder / name} could not be written ({reason}); the store is unchanged: "
            "free some space or use another folder with --weights-dir."
        )


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
