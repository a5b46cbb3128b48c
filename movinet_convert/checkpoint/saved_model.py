"""SavedModels of Keras, TF-Hub and Kaggle: keys are ``variables/N``, names in the object graph."""

from __future__ import annotations

import re

from movinet_convert.checkpoint import keras_scopes
from movinet_convert.checkpoint.canonical import (
    CanonicalNames,
    arch_of_containers,
    containers,
    split_ignored,
    unknown_variable,
)
from movinet_convert.checkpoint.keras_scopes import KerasName
from movinet_convert.checkpoint.model_garden import object_paths
from movinet_convert.checkpoint.object_graph import full_names
from movinet_convert.checkpoint.tensor_bundle import OBJECT_GRAPH_KEY, BundleReader
from movinet_convert.checkpoint.tensor_source import Weight
from movinet_convert.errors import CheckpointError

_LISTED = re.compile(r"(?P<list>.*)/(?P<n>\d{1,6})")


def names_of_saved_model(bundle: BundleReader) -> CanonicalNames | None:
    """The names of a bundle whose object graph has Keras variable names."""
    if OBJECT_GRAPH_KEY not in bundle.entries:
        return None
    weights, rest = split_ignored(object_paths(bundle))
    keras_names = full_names(bundle.read_string(OBJECT_GRAPH_KEY), bundle.entries, bundle.where)
    scopes = {path: keras_names.get(key, "") for path, key in weights.items()}
    parsed = {path: keras_scopes.parse(scope) for path, scope in scopes.items()}
    stems = [
        path
        for path, name in parsed.items()
        if name and name.leaf == "kernel" and name.container == "stem"
    ]
    if not stems:
        return None
    nested = len(bundle.shape(weights[stems[0]])) == 4
    unscoped = [path for path, scope in scopes.items() if scope == "scale"]
    arch = arch_of_containers({name.container for name in parsed.values() if name}, bundle.where)
    encodings = _encoding_scales(unscoped, parsed, containers(arch)[1:-1], bundle.where)
    pairs: list[tuple[str, Weight]] = []
    for path, key in weights.items():
        name = parsed[path]
        if name is not None:
            pairs.append((name.canonical(nested=nested), Weight(key)))
        elif path in encodings:
            pairs.append((encodings[path], Weight(key)))
        else:
            raise unknown_variable(scopes[path] or path, bundle.where)
    hub = any(keras_scopes.is_hub_name(scope) for scope in scopes.values())
    layout = "tfhub-saved-model" if hub else "keras-saved-model"
    return CanonicalNames.collect(layout, arch, pairs, rest, bundle)


def _encoding_scales(
    unscoped: list[str], parsed: dict[str, KerasName | None], blocks: tuple[str, ...], where: str
) -> dict[str, str]:
    """Match each variable named just ``scale`` to the positional encoding of a block.

    Keras lists variables layer by layer, so the k-th belongs to the k-th block; at least one of
    its neighbours in the list must belong to that block too.
    """
    if not unscoped:
        return {}
    listed = {path: match for path in unscoped if (match := _LISTED.fullmatch(path))}
    ordered = sorted(listed, key=lambda path: (listed[path]["list"], int(listed[path]["n"])))
    if len(ordered) != len(blocks) or len(unscoped) != len(blocks):
        raise CheckpointError(
            f"{where} has {len(unscoped)} positional encodings for {len(blocks)} blocks; expected "
            "one for each, or none."
        )
    for path, block in zip(ordered, blocks, strict=True):
        start, n = listed[path]["list"], int(listed[path]["n"])
        neighbours = [parsed.get(f"{start}/{n + step}") for step in (-1, 1)]
        if not any(name is not None and name.container == block for name in neighbours):
            raise unknown_variable(path, where)
    return {
        path: f"{block}/_attention/_pos_encoding/_rezero/scale"
        for path, block in zip(ordered, blocks, strict=True)
    }
