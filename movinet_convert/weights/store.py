"""The store: a folder of converted files and the manifest that lists them.

Readers need no lock: a file is complete before the manifest names it, the manifest is replaced in
one step, and neither is ever changed in place. Writers prepare their files in a staging folder of
their own and take the store's lock one after another to move them into place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs
import safetensors

from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.files.atomic import file_sha256
from movinet_convert.files.staging import staging_folder
from movinet_convert.weights import manifest as manifests
from movinet_convert.weights.manifest import MANIFEST_NAME, ConvertedVersion, Manifest

WEIGHTS_DIR_VARIABLE = "MOVINET_WEIGHTS_DIR"
LOCK_NAME = ".lock"
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
        """The entry of a variant's version, the one converted last unless one is given."""
        manifest = self.manifest()
        versions = manifest.versions(name)
        if not versions:
            arch, mode = name.split("-")
            causal = " --causal" if mode == "stream" else ""
            raise WeightsError(
                f"The store {self.folder} holds no weights of {name}; make them with "
                f"movinet-convert --arch {arch}{causal}, or name another folder with weights_dir "
                f"or ${WEIGHTS_DIR_VARIABLE}."
            )
        if version is None:
            current = manifest.variants[name].current_version
            assert current is not None, "the variant has versions"
            return current
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

    def listed(self, path: Path) -> Listed | None:
        """What the manifest lists of a file, by whatever name or link the file is reached."""
        if not self.manifest_path.exists():
            return None
        for variant, described in self.manifest().variants.items():
            for entry in described.versions:
                if _is_same_file(self.folder / entry.file, path):
                    return Listed(self.folder, variant, entry)
        return None

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder inside the store to prepare files in; it is gone afterwards.

        The store is created if need be. What is prepared shows in the store only once ``commit``
        has moved it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            opened = staging_folder(self.folder, "store")
            folder = opened.__enter__()
        except OSError as error:
            raise self._unusable(error) from None
        with ExitStack() as stack:
            stack.push(opened)
            yield folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store for writing."""
        try:
            lock = filelock.FileLock(self.folder / LOCK_NAME, timeout=LOCK_TIMEOUT_SECONDS)
            lock.acquire()
        except filelock.Timeout:
            raise WeightsError(
                f"Another process has held {self.folder} for {LOCK_TIMEOUT_SECONDS:.0f} s; "
                "wait for it to finish or stop it, then try again."
            ) from None
        except OSError as error:
            raise self._unusable(error) from None
        try:
            yield
        finally:
            lock.release()

    def commit(self, manifest: Manifest, files: Mapping[str, Path], staging: Path) -> None:
        """Move files of a staging folder to their names, over what was there, and list them.

        All that needs room on the disk happens before anything is moved. Call it with the lock
        held.
        """
        text = manifests.dump(manifest)
        manifests.parse(text, "the new manifest")
        listing = staging / MANIFEST_NAME
        self.write(listing, lambda path: path.write_text(text, "utf-8"))
        for name, prepared in {**files, MANIFEST_NAME: listing}.items():
            try:
                prepared.replace(self.folder / name)
            except OSError as error:
                raise self._not_written(name, error) from None

    def write(self, path: Path, write: Callable[[Path], object]) -> None:
        """Let ``write`` make a file in a staging folder, on the disk for good afterwards."""
        try:
            write(path)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        except (OSError, safetensors.SafetensorError) as error:
            raise self._not_written(path.name, error) from None

    def _unusable(self, error: OSError) -> UsageError:
        return UsageError(
            f"The folder {self.folder} cannot be written ({error.strerror}); "
            "name another with --out."
        )

    def _not_written(self, name: str, error: Exception) -> WeightsError:
        reason = getattr(error, "strerror", None) or str(error)
        return WeightsError(
            f"{self.folder / name} could not be written ({reason}); what was there is unchanged: "
            "make room or name another folder with --out."
        )


@dataclass(frozen=True)
class Listed:
    """A file that the manifest of ``folder`` lists under a variant."""

    folder: Path
    variant: str
    entry: ConvertedVersion


def find_listed(path: Path) -> Listed | None:
    """What the manifest beside a file, or beside what it links to, lists of it."""
    folders = dict.fromkeys((path.parent, path.resolve().parent))
    found = (Store(folder).listed(path) for folder in folders)
    return next((listed for listed in found if listed is not None), None)


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
