"""Layouts whose keys are object paths: Model Garden, Keras ``save_weights``, training runs.

All hold ``…layer_with_weights-K/_stem|_expansion|…``; they differ in the path before it and in
what is stored beside the weights. The path names the first way that TensorFlow found from the
saved object to the variable, so that a training run may hold its backbone under ``backbone/``
and its classifier under ``model/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from movinet_convert.checkpoint.canonical import (
    CLASSIFIER,
    SAVE_COUNTER,
    CanonicalNames,
    arch_of_block_count,
    containers,
    split_ignored,
    unknown_variable,
)
from movinet_convert.checkpoint.object_graph import KEY_SUFFIX, checkpoint_key, encode_object_graph
from movinet_convert.checkpoint.tensor_bundle import (
    OBJECT_GRAPH_KEY,
    BundleReader,
    data_name,
    index_name,
    write_bundle,
)
from movinet_convert.checkpoint.tensor_source import Array, Weight
from movinet_convert.errors import CheckpointError, UsageError
from movinet_convert.files.writing import move_together, staging_folder

_LAYER = re.compile(r"(?P<parent>(?:.*/)?)layer_with_weights-(?P<k>\d{1,4})/(?P<rest>_\w.*)")
_STEM_KEY = re.compile(r"(?P<backbone>(?:.*/)?)layer_with_weights-0/_stem/.*")
_CLASSIFIER_PARTS = ("_head/", "_classifier/")


@dataclass(frozen=True)
class _Place:
    """A key taken apart: ``parent`` + ``layer_with_weights-{k}/`` + ``rest``."""

    parent: str
    k: int
    rest: str


def names_by_object_path(bundle: BundleReader) -> CanonicalNames | None:
    """The names of a bundle whose keys are object paths; None if it has no MoViNet stem."""
    weights, rest = split_ignored(paths(bundle))
    backbones = {match["backbone"] for path in weights if (match := _STEM_KEY.fullmatch(path))}
    if not backbones:
        return None
    where = bundle.where
    if len(backbones) > 1:
        raise CheckpointError(
            f"{where} holds {len(backbones)} MoViNet backbones "
            f"({', '.join(sorted(repr(b) for b in backbones))}); expected one."
        )
    (backbone,) = backbones
    arch = arch_of_block_count(_block_count(weights, backbone, where), where)
    order = containers(arch)
    pairs = [
        (_canonical(path, backbone, order, where), Weight(key)) for path, key in weights.items()
    ]
    return CanonicalNames.collect(_layout_name(backbone, rest), arch, pairs, rest, bundle)


def paths(bundle: BundleReader) -> dict[str, str]:
    """Object path -> key of every stored variable; CheckpointError if two have one path."""
    found: dict[str, str] = {}
    for key in bundle.names:
        first = found.setdefault(key.removesuffix(KEY_SUFFIX), key)
        if first != key:
            raise CheckpointError(
                f"{bundle.where} holds both {first!r} and {key!r}, which are one variable; the "
                "checkpoint was put together from several, or is damaged."
            )
    return found


def _place(path: str) -> _Place | None:
    match = _LAYER.fullmatch(path)
    return _Place(match["parent"], int(match["k"]), match["rest"]) if match else None


def _block_count(paths: Iterable[str], backbone: str, where: str) -> int:
    """Blocks are what stands between the stem (0) and the head (last), without a gap."""
    ks = {p.k for path in paths if (p := _place(path)) is not None and p.parent == backbone}
    last = max(ks)
    gaps = sorted(set(range(last)) - ks)
    if gaps:
        raise CheckpointError(
            f"{where} has no {backbone}layer_with_weights-{gaps[0]}, though it has number {last}; "
            "parts of the network are missing."
        )
    return last - 1


def _canonical(path: str, backbone: str, names: tuple[str, ...], where: str) -> str:
    place = _place(path)
    if place is not None and place.parent == backbone and place.k < len(names):
        return f"{names[place.k]}/{place.rest}"
    if place is not None and place.rest.startswith(_CLASSIFIER_PARTS):
        return f"{CLASSIFIER}/{place.rest}"
    raise unknown_variable(path, where)


def _layout_name(backbone: str, rest: dict[str, str]) -> str:
    if any(reason != SAVE_COUNTER for reason in rest.values()):
        return "training"
    return "keras-tf-format" if backbone in ("", "layer_with_weights-0/") else "model-garden"


PREFIX = "ckpt-1"
STATE_FILE = "checkpoint"
FILES = (index_name(PREFIX), data_name(PREFIX), STATE_FILE)
# What a killed run leaves behind, and what folders hold that nobody put there.
LEFT_BEHIND = re.compile(r"\..*|.*\.previous-[0-9a-f]{8}(\..*)?")

_BACKBONE = "model/layer_with_weights-0"
_CLASSIFIER = "model/layer_with_weights-1"
_SAVE_COUNTER = "save_counter"


def write_checkpoint(folder: Path, arch: str, variables: Mapping[str, Array]) -> Path:
    """Write ``variables`` (canonical name -> array) into ``folder``; returns ``folder/ckpt-1``.

    A folder that holds such a checkpoint already is overwritten; one that holds anything else is
    refused with UsageError, before anything is written.
    """
    _check_target(folder)
    paths = {object_path(name, arch): array for name, array in variables.items()}
    tensors: dict[str, Array | bytes] = {
        checkpoint_key(path): array for path, array in paths.items()
    }
    tensors[checkpoint_key(_SAVE_COUNTER)] = np.array(1, np.int64)
    tensors[OBJECT_GRAPH_KEY] = encode_object_graph(
        [_SAVE_COUNTER, *paths], aliases={"model/_backbone": _BACKBONE}
    )
    folder.mkdir(parents=True, exist_ok=True)
    # Complete files move into place; nobody meets a half-written one.
    with staging_folder(folder, "export") as staging:
        write_bundle(staging, PREFIX, tensors)
        state = f'model_checkpoint_path: "{PREFIX}"\nall_model_checkpoint_paths: "{PREFIX}"\n'
        (staging / STATE_FILE).write_text(state, encoding="utf-8")
        move_together([(staging / name, folder / name) for name in FILES])
    return folder / PREFIX


def object_path(name: str, arch: str) -> str:
    """``block1_layer1/_feature/…`` -> ``model/layer_with_weights-0/layer_with_weights-3/…``."""
    container, _, rest = name.partition("/")
    if container == CLASSIFIER:
        return f"{_CLASSIFIER}/{rest}"
    return f"{_BACKBONE}/layer_with_weights-{containers(arch).index(container)}/{rest}"


def _check_target(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is a file where the folder of a checkpoint was to go; name another."
        )
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in FILES and not LEFT_BEHIND.fullmatch(path.name)
    )
    if others:
        raise UsageError(
            f"{folder} holds {others[0]}, which is no part of a checkpoint written here; "
            "name a new or an empty folder."
        )
