"""Layouts whose keys are object paths: Model Garden, Keras ``save_weights``, training runs.

All have ``…layer_with_weights-K/_stem|_expansion|…``; they differ in the prefix and in the training
state that they contain. A path is the first that TensorFlow found from the saved object to the
variable, so a training run may store its backbone under ``backbone/`` and its classifier under
``model/``. ``write_checkpoint`` writes the layout of the releases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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

PREFIX, STATE_FILE = "ckpt-1", "checkpoint"
FILES = (index_name(PREFIX), data_name(PREFIX), STATE_FILE)
# Leftovers of a killed process, and hidden files, which an export may ignore.
LEFT_BEHIND = re.compile(r"\..*|.*\.previous-[0-9a-f]{8}(\..*)?")
_BACKBONE = "model/layer_with_weights-0"
_CLASSIFIER = "model/layer_with_weights-1"
_SAVE_COUNTER = "save_counter"


# --- reading --------------------------------------------------------------------------------------


def names_by_object_path(bundle: BundleReader) -> CanonicalNames | None:
    """The names of a bundle whose keys are object paths; None if it has no MoViNet stem."""
    weights, rest = split_ignored(object_paths(bundle))
    backbones = {match["backbone"] for path in weights if (match := _STEM_KEY.fullmatch(path))}
    if not backbones:
        return None
    where = bundle.where
    if len(backbones) > 1:
        raise CheckpointError(
            f"{where} contains {len(backbones)} MoViNet backbones "
            f"({', '.join(sorted(repr(b) for b in backbones))}); expected one."
        )
    (backbone,) = backbones
    arch = arch_of_block_count(_block_count(weights, backbone, where), where)
    pairs = [
        (_canonical(path, backbone, containers(arch), where), Weight(key))
        for path, key in weights.items()
    ]
    layout = "keras-tf-format" if backbone in ("", "layer_with_weights-0/") else "model-garden"
    if any(reason != SAVE_COUNTER for reason in rest.values()):
        layout = "training"
    return CanonicalNames.collect(layout, arch, pairs, rest, bundle)


def object_paths(bundle: BundleReader) -> dict[str, str]:
    """Object path -> key of every stored variable; CheckpointError if two share a path."""
    found: dict[str, str] = {}
    for key in bundle.names:
        first = found.setdefault(key.removesuffix(KEY_SUFFIX), key)
        if first != key:
            raise CheckpointError(
                f"{bundle.where} contains both {first!r} and {key!r}, which are the same variable; "
                "the checkpoint was merged from several, or is damaged."
            )
    return found


def _block_count(paths: Iterable[str], backbone: str, where: str) -> int:
    """The number of blocks: layers are numbered from the stem (0) to the head without gaps."""
    matches = (_LAYER.fullmatch(path) for path in paths)
    ks = {int(match["k"]) for match in matches if match and match["parent"] == backbone}
    last = max(ks)
    gaps = sorted(set(range(last)) - ks)
    if gaps:
        raise CheckpointError(
            f"{where} has no {backbone}layer_with_weights-{gaps[0]}, though it has number {last}; "
            "it is incomplete."
        )
    return last - 1


def _canonical(path: str, backbone: str, names: tuple[str, ...], where: str) -> str:
    match = _LAYER.fullmatch(path)
    if match and match["parent"] == backbone and int(match["k"]) < len(names):
        return f"{names[int(match['k'])]}/{match['rest']}"
    if match and match["rest"].startswith(("_head/", "_classifier/")):
        return f"{CLASSIFIER}/{match['rest']}"
    raise unknown_variable(path, where)


# --- writing --------------------------------------------------------------------------------------


def write_checkpoint(folder: Path, arch: str, variables: Mapping[str, Array]) -> Path:
    """Write ``variables`` (canonical name -> array) into ``folder``; returns ``folder/ckpt-1``.

    ``tf.train.Checkpoint(model=official_model).restore(folder / "ckpt-1")`` finds every variable.
    An earlier checkpoint of this function is overwritten; a folder with other files raises
    UsageError before anything is written.
    """
    _check_target(folder)
    paths = {_object_path(name, arch): array for name, array in variables.items()}
    tensors: dict[str, Array | bytes] = {
        checkpoint_key(path): array for path, array in paths.items()
    }
    tensors[checkpoint_key(_SAVE_COUNTER)] = np.array(1, np.int64)
    tensors[OBJECT_GRAPH_KEY] = encode_object_graph(
        [_SAVE_COUNTER, *paths], aliases={"model/_backbone": _BACKBONE}
    )
    folder.mkdir(parents=True, exist_ok=True)
    with staging_folder(folder, "export") as staging:
        write_bundle(staging, PREFIX, tensors)
        state = f'model_checkpoint_path: "{PREFIX}"\nall_model_checkpoint_paths: "{PREFIX}"\n'
        (staging / STATE_FILE).write_text(state, encoding="utf-8")
        move_together([(staging / name, folder / name) for name in FILES])
    return folder / PREFIX


def _object_path(name: str, arch: str) -> str:
    """``block1_layer1/_feature/…`` -> ``model/layer_with_weights-0/layer_with_weights-3/…``."""
    container, _, rest = name.partition("/")
    if container == CLASSIFIER:
        return f"{_CLASSIFIER}/{rest}"
    return f"{_BACKBONE}/layer_with_weights-{containers(arch).index(container)}/{rest}"


def _check_target(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; give the name of a folder for the checkpoint.")
    for name in sorted(path.name for path in folder.iterdir()):
        if name not in FILES and not LEFT_BEHIND.fullmatch(name):
            raise UsageError(
                f"{folder} contains {name}, which is not part of an exported checkpoint; "
                "name a new or an empty folder."
            )
