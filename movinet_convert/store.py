"""The store: a folder of converted files and the manifest that lists them.

Readers need no lock: a file is complete before the manifest names it, the manifest is replaced in
one step, and neither is ever changed in place. Writers take the store's lock one after another.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import platformdirs
import safetensors

from movinet_convert import manifest as manifests
from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.manifest import MANIFEST_NAME, ConvertedVersion, Manifest
from movinet_convert.weightfile import file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

WEIGHTS_DIR_VARIABLE = "MOVINET_WEIGHTS_DIR"
LOCK_NAME = ".lock"
UNFINISHED = ".unfinished"
LOCK_TIMEOUT_SECONDS = 600.0


def store_folder(weights_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder asked for, or $MOVINET_WEIGHTS_DIR, or the per-user data folder."""
    chosen = weights_dir or os.environ.get(WEIGHTS_DIR_VARIABLE)
    folder = Path(chosen) if chosen else platformdirs.user_data_path("movinet-convert")
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError:
        # safetensors opens no such file: better said before a conversion than after it.
        raise UsageError(
            f"The name of the folder {str(folder)!a} is not valid UTF-8; name another store."
        ) from None
    return folder


def file_name(name: str, version: int) -> str:
    return f"movinet-{name}-v{version}.safetensors"


@dataclass(frozen=True)
class Store:
    """A folder of converted weights; it may be read-only, and need not exist before a write."""

    folder: Path

    @property
    def manifest_path(self) -> Path:
        return self.folder / MANIFEST_NAME

    def manifest(self) -> Manifest:
        """What the store lists; the bare catalogue where nothing has been converted."""
        if not self.manifest_path.exists():
            return manifests.catalogue()
        return manifests.read(self.manifest_path)

    def find(self, name: str, version: int | None = None) -> ConvertedVersion:
        """The entry of a variant's version, the newest unless one is given."""
        versions = self.manifest().versions(name)
        if not versions:
            arch, mode = name.split("-")
            causal = " --causal" if mode == "stream" else ""
            raise WeightsError(
                f"The store {self.folder} holds no weights of {name}; make them with "
                f"movinet-convert --arch {arch}{causal}, or name another folder with weights_dir "
                f"or ${WEIGHTS_DIR_VARIABLE}."
            )
        if version is None:
            return versions[-1]
        for entry in versions:
            if entry.version == version:
                return entry
        known = ", ".join(str(entry.version) for entry in versions)
        raise WeightsError(
            f"The store {self.folder} holds no version {version} of {name}, only {known}."
        )

    def checked_path(self, entry: ConvertedVersion) -> Path:
        """The file of an entry, once its size and sha256 have been compared with the manifest."""
        path = self.folder / entry.file
        try:
            size = path.stat().st_size
        except OSError:
            raise WeightsError(
                f"{path} is listed in {MANIFEST_NAME} but is not there; convert again."
            ) from None
        if size != entry.bytes:
            raise WeightsError(
                f"{path} has {size} bytes where the manifest records {entry.bytes}; it is damaged "
                "or was replaced: delete it and convert again."
            )
        digest = file_sha256(path)
        if digest != entry.sha256:
            raise WeightsError(
                f"{path} has sha256 {digest} where the manifest records {entry.sha256}; it is "
                "damaged or was replaced: delete it and convert again."
            )
        return path

    def is_intact(self, entry: ConvertedVersion) -> bool:
        try:
            self.checked_path(entry)
        except WeightsError:
            return False
        return True

    def listed(self, path: Path) -> ConvertedVersion | None:
        """The entry of a file of this store, if its manifest has one."""
        if not self.manifest_path.exists():
            return None
        entries = (v for e in self.manifest().variants.values() for v in e.versions)
        return next((entry for entry in entries if entry.file == path.name), None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store for writing; creates its folder and sweeps what a killed run left."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / LOCK_NAME, timeout=LOCK_TIMEOUT_SECONDS)
            lock.acquire()
        except filelock.Timeout:
            raise WeightsError(
                f"Another process has held {self.folder} for {LOCK_TIMEOUT_SECONDS:.0f} s; "
                "wait for it to finish or stop it, then try again."
            ) from None
        except OSError as error:
            raise UsageError(
                f"The folder {self.folder} cannot be written ({error.strerror}); "
                "name another with --out."
            ) from None
        try:
            for leftover in self.folder.glob(f"*{UNFINISHED}"):
                leftover.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    @contextmanager
    def staged(self, name: str, write: Callable[[Path], object]) -> Iterator[Path]:
        """Let ``write`` fill an unfinished file, on the disk for good when this yields.

        It is gone afterwards unless ``commit`` has moved it. Call it with the lock held.
        """
        try:
            handle, temporary = tempfile.mkstemp(
                prefix=f"{name}.", suffix=UNFINISHED, dir=self.folder
            )
            os.close(handle)
        except OSError as error:
            raise self._not_written(name, error) from None
        unfinished = Path(temporary)
        try:
            try:
                write(unfinished)
                unfinished.chmod(0o644)
                with unfinished.open("rb+") as file:
                    os.fsync(file.fileno())
            except (OSError, safetensors.SafetensorError) as error:
                raise self._not_written(name, error) from None
            yield unfinished
        finally:
            unfinished.unlink(missing_ok=True)

    def commit(self, manifest: Manifest, files: Mapping[str, Path]) -> None:
        """Move staged files to their names, over what was there, and then list them.

        All that needs room on the disk happens before anything is moved. Call it with the lock
        held.
        """
        text = manifests.dump(manifest)
        manifests.parse(text, "the new manifest")
        with self.staged(MANIFEST_NAME, lambda path: path.write_text(text, "utf-8")) as listing:
            for name, unfinished in {**files, MANIFEST_NAME: listing}.items():
                try:
                    unfinished.replace(self.folder / name)
                except OSError as error:
                    raise self._not_written(name, error) from None

    def _not_written(self, name: str, error: Exception) -> WeightsError:
        reason = getattr(error, "strerror", None) or str(error)
        return WeightsError(
            f"{self.folder / name} could not be written ({reason}); what was there is unchanged: "
            "make room or name another folder with --out."
        )
