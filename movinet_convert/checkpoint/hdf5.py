"""HDF5 files as Keras writes them: plain arrays by path, nothing that points elsewhere.

HDF5 can link to other files, keep data outside of the file, and claim arrays larger than what is
stored. None of it occurs in a file of weights, and all of it is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from movinet_convert.checkpoint.blob import Blob
from movinet_convert.checkpoint.names import Array, plausible
from movinet_convert.errors import CheckpointError

MAGIC = b"\x89HDF\r\n\x1a\n"
# A whole model of an A5 with its optimizer has some 15,000 groups and arrays, and 2 MB of names.
_MAX_OBJECTS = 50_000
_MAX_DEPTH = 32
_MAX_NAME = 1024
_MAX_TOTAL_NAMES = 8 << 20


def has_hdf5_magic(blob: Blob) -> bool:
    return blob.size >= 8 and blob.read(0, 8).tobytes() == MAGIC


class Hdf5Source:
    """The arrays of an HDF5 file by their path in it."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        try:
            self._file = h5py.File(path, "r", locking=False)
            self._arrays = self._find_arrays(path.stat().st_size)
        except CheckpointError:
            raise
        except Exception as error:  # h5py reports damage with many kinds of exceptions
            raise self._damaged(error) from error

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name]

    def read(self, name: str) -> Array:
        try:
            array: Array = np.asarray(self._file[name][()])
        except Exception as error:
            raise self._damaged(error, f" at {name!r}") from error
        if array.shape != self._arrays[name]:
            raise CheckpointError(f"{self.where} changed while {name!r} was read; try again.")
        return array

    def _find_arrays(self, file_bytes: int) -> dict[str, tuple[int, ...]]:
        arrays: dict[str, tuple[int, ...]] = {}
        waiting: list[tuple[str, Any, int]] = [("", self._file, 0)]
        seen = total_names = total_bytes = 0
        while waiting:
            path, group, depth = waiting.pop()
            for key in group:
                seen += 1
                if seen > _MAX_OBJECTS or depth > _MAX_DEPTH:
                    raise self._refused(path, "there are more objects than any MoViNet has")
                name = f"{path}/{key}" if path else key
                total_names += len(name)
                if len(name) > _MAX_NAME or total_names > _MAX_TOTAL_NAMES:
                    raise self._refused(path, "its members have longer names than any MoViNet's")
                if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                    raise self._refused(name, "it is a link to somewhere else")
                item = group[key]
                if isinstance(item, h5py.Group):
                    waiting.append((name, item, depth + 1))
                elif isinstance(item, h5py.Dataset):
                    total_bytes += self._stored_bytes(name, item)
                    if total_bytes > file_bytes:
                        raise self._refused(name, "its arrays take more bytes than the file has")
                    arrays[name] = tuple(item.shape)
        return arrays

    def _stored_bytes(self, name: str, item: Any) -> int:
        """The size of an array, which must stand in this very file as its shape says."""
        if item.external or item.is_virtual:
            raise self._refused(name, "its data is outside of the file")
        if item.shape is None or item.dtype.kind not in "fiub" or not plausible(item.shape):
            raise self._refused(name, f"it is no array of numbers but {item.shape} {item.dtype}")
        if item.id.get_create_plist().get_nfilters():  # a chunk may unpack to any size
            raise self._refused(
                name, "it is compressed, which Keras' files are not; save the weights again"
            )
        wanted: int = int(item.size) * item.dtype.itemsize
        stored = int(item.id.get_storage_size())
        if stored != wanted:
            raise self._refused(
                name,
                f"its shape {item.shape} takes {wanted:,} bytes, but {stored:,} are stored",
            )
        return wanted

    def _refused(self, name: str, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.where} is refused because of {name!r}: {problem}.")

    def _damaged(self, error: Exception, place: str = "") -> CheckpointError:
        return CheckpointError(
            f"{self.where} cannot be read as HDF5{place} ({_first_line(error)}); it is cut short "
            "or damaged: get it again."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
