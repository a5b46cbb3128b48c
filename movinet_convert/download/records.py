"""JSON files in the cache that record digests at first use, shared by concurrent runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import filelock
import platformdirs
import pydantic

from movinet_convert.errors import CacheError
from movinet_convert.files.reading import open_regular
from movinet_convert.files.writing import replacing

CACHE_DIR_VARIABLE = "MOVINET_CACHE_DIR"
MAX_RECORD_BYTES = 1 << 20

Entry = TypeVar("Entry", bound=pydantic.BaseModel)


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the cache: as given, or ``$MOVINET_CACHE_DIR``, or the per-user folder."""
    chosen = given or os.environ.get(CACHE_DIR_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("movinet-convert")


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Exclude other processes that write to ``path``; CacheError after ``seconds``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    try:
        with filelock.FileLock(lock, timeout=seconds):
            yield
    except filelock.Timeout:
        raise CacheError(
            f"Another process has held {lock} for {seconds:.0f} s; wait for it or stop it, then "
            "try again."
        ) from None


@dataclass(frozen=True)
class Records(Generic[Entry]):
    """The entries of a file at ``path`` by name; CacheError if it is damaged."""

    path: Path
    kind: type[Entry]

    @property
    def _adapter(self) -> pydantic.TypeAdapter[dict[str, Entry]]:
        return pydantic.TypeAdapter(dict[str, self.kind])  # type: ignore[name-defined]

    def read(self) -> dict[str, Entry]:
        try:
            with open_regular(self.path, CacheError) as file:
                text = file.read(MAX_RECORD_BYTES + 1)
            if len(text) > MAX_RECORD_BYTES:
                raise ValueError("it is larger than a record of all releases")
            return self._adapter.validate_json(text)
        except FileNotFoundError:
            return {}
        except ValueError:
            raise CacheError(
                f"{self.path} is damaged; delete it, and digests are recorded again at the next "
                "use of each release."
            ) from None

    def write(self, name: str, entry: Entry, lock_seconds: float) -> None:
        """Add an entry, or replace that of the same name."""
        with locked(self.path, lock_seconds):
            records = {**self.read(), name: entry}
            with replacing(self.path) as unfinished:
                unfinished.write_bytes(self._adapter.dump_json(records, indent=2))
