"""Writing a checkpoint as the releases are laid out, without TensorFlow.

``tf.train.Checkpoint(model=official_model).restore(folder / "ckpt-1")`` finds every variable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from movinet_convert.checkpoint.bundle import OBJECT_GRAPH_KEY
from movinet_convert.checkpoint.names import Array
from movinet_convert.checkpoint.naming import CLASSIFIER, containers
from movinet_convert.checkpoint.object_graph import checkpoint_key, encode_object_graph
from movinet_convert.checkpoint.write_bundle import data_name, index_name, write_bundle
from movinet_convert.errors import UsageError
from movinet_convert.files.atomic import move_together
from movinet_convert.files.staging import staging_folder

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
