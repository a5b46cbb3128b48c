"""Keras HDF5: ``save_weights("x.h5")``, ``save("x.h5")`` and ``save_weights("x.weights.h5")``.

The first two name variables by name scope; the third numbers the variables of each layer in order
of creation, under the layer's attribute path. HDF5 can link to other files, store data outside the
file and declare arrays larger than the stored data: weight files do not, and all of it is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from movinet_convert.checkpoint import keras_scopes
from movinet_convert.checkpoint.canonical import (
    STEM,
    CanonicalNames,
    arch_of_block_count,
    arch_of_containers,
    containers,
    split_ignored,
    unknown_variable,
)
from movinet_convert.checkpoint.tensor_source import (
    Array,
    TensorSource,
    Weight,
    plausible,
)
from movinet_convert.errors import CheckpointError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# A whole model of an A5 with its optimizer has some 15,000 groups and arrays, and 2 MB of names.
_MAX_OBJECTS = 50_000
_MAX_DEPTH = 32
_MAX_NAME = 1024
_MAX_TOTAL_NAMES = 8 << 20


class Hdf5Source:
    """The arrays of an HDF5 file by their path in it."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        try:
            self._file = h5py.File(path, "r", locking=False)
            self._arrays = self._find_arrays(path.stat().st_size)
        except CheckpointError:
            raise
        except Exception as error:  # h5py raises many kinds of exceptions for damaged files
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
        pending: list[tuple[str, Any, int]] = [("", self._file, 0)]
        seen = total_names = total_bytes = 0
        while pending:
            path, group, depth = pending.pop()
            for key in group:
                seen += 1
                if seen > _MAX_OBJECTS or depth > _MAX_DEPTH:
                    raise self._refused(path, "it has more objects than any MoViNet")
                name = f"{path}/{key}" if path else key
                total_names += len(name)
                if len(name) > _MAX_NAME or total_names > _MAX_TOTAL_NAMES:
                    raise self._refused(path, "its members have longer names than any MoViNet's")
                if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                    raise self._refused(name, "it is a link to another object")
                item = group[key]
                if isinstance(item, h5py.Group):
                    pending.append((name, item, depth + 1))
                elif isinstance(item, h5py.Dataset):
                    total_bytes += self._stored_bytes(name, item)
                    if total_bytes > file_bytes:
                        raise self._refused(name, "the arrays take more bytes than the file has")
                    arrays[name] = tuple(item.shape)
        return arrays

    def _stored_bytes(self, name: str, item: Any) -> int:
        """The size of an array, whose data must be in this file and match its shape."""
        if item.external or item.is_virtual:
            raise self._refused(name, "its data is outside the file")
        if item.shape is None or item.dtype.kind not in "fiub" or not plausible(item.shape):
            raise self._refused(
                name, f"it is not an array of numbers but {item.shape} {item.dtype}"
            )
        if item.id.get_create_plist().get_nfilters():  # a chunk may decompress to any size
            raise self._refused(
                name, "it is compressed, unlike files that Keras writes; save the weights again"
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
            f"{self.where} cannot be read as HDF5{place} ({_first_line(error)}); it is truncated "
            "or damaged: get it again."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


_LAYER = re.compile(r"stem|head|classifier_head|movinet_block(?:_(?P<n>\d{1,4}))?")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_ALIASES = {
    "_expansion_layer": "_expansion",
    "_feature_layer": "_feature",
    "_projection_layer": "_projection",
    "_attention_layer": "_attention",
    "_skip_layer": "_skip",
}


def names_by_scope(source: TensorSource) -> CanonicalNames | None:
    """``x.h5``: paths are layer names followed by the variable's name."""
    weights, rest = split_ignored({name: name for name in source.names})
    parsed = {name: keras_scopes.parse(name) for name in weights}
    kernels = [n for n, p in parsed.items() if p and p.container == STEM and p.leaf == "kernel"]
    if not kernels:
        return None
    nested = len(source.shape(kernels[0])) == 4
    pairs: list[tuple[str, Weight]] = []
    for name, found in parsed.items():
        if found is None:
            raise unknown_variable(name, source.where)
        pairs.append((found.canonical(nested=nested), Weight(name)))
    arch = arch_of_containers({p.container for p in parsed.values() if p}, source.where)
    return CanonicalNames.collect("keras-h5", arch, pairs, rest, source)


def names_by_owner(source: TensorSource) -> CanonicalNames | None:
    """``x.weights.h5``: paths are attributes; a layer's variables are ``vars/0``, ``vars/1``, …"""
    weights, rest = split_ignored({name: name for name in source.names})
    owned = {name: _owned(name, len(source.shape(name))) for name in weights}
    blocks = {found[0] for found in owned.values() if found and isinstance(found[0], int)}
    if not blocks:
        return None
    arch = arch_of_block_count(len(blocks), source.where)
    order = containers(arch)[1:-1]
    pairs: list[tuple[str, Weight]] = []
    for name, found in owned.items():
        if found is None or (isinstance(found[0], int) and found[0] >= len(order)):
            raise unknown_variable(name, source.where)
        layer, path = found
        container = order[layer] if isinstance(layer, int) else layer
        pairs.append((f"{container}/{path}", Weight(name)))
    return CanonicalNames.collect("keras-weights-h5", arch, pairs, rest, source)


def _owned(name: str, rank: int) -> tuple[int | str, str] | None:
    """``…/layers/movinet_block_3/_skip/…/vars/0`` -> block 3 (or the layer) and object path."""
    words = name.split("/")
    layers = [at for at, word in enumerate(words[:-1]) if word == "layers"]
    match = _LAYER.fullmatch(words[layers[-1] + 1]) if layers else None
    if match is None or words[-2] != "vars" or not words[-1].isdecimal() or len(words[-1]) > 2:
        return None
    path = _leaf(words[layers[-1] + 2 : -2], int(words[-1]), rank)
    layer = int(match["n"] or 0) if match[0].startswith("movinet_block") else match[0]
    return (layer, path) if path else None


def _leaf(path: list[str], var: int, rank: int) -> str | None:
    """The object path of variable number ``var`` of the layer at ``path``."""
    words = [_ALIASES.get(word, word) for word in path]
    if words[:1] == ["_mobile_bottleneck"] and words[1:] != ["_rezero"]:
        words = words[1:]
    if not words:
        return None
    if words[-1] == "_batch_norm_op" and len(words) > 1:
        temporal = words[-2] == "_conv_temporal"
        words[-2:] = ["_batch_norm_temporal" if temporal else "_batch_norm"]
    owner = words[-1]
    if owner.startswith("_batch_norm"):
        leaves: tuple[str, ...] = _NORM
    elif owner == "_rezero":
        leaves = ("scale",)
    else:
        depthwise = words[0] == "_feature" and rank == 4
        leaves = ("depthwise_kernel" if depthwise else "kernel", "bias")
    return "/".join([*words, leaves[var]]) if var < len(leaves) else None
