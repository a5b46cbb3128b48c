"""Layouts whose keys are object paths: Model Garden, Keras ``save_weights``, training runs.

All hold ``…layer_with_weights-K/_stem|_expansion|…``; they differ in the path before it and in
what is stored beside the weights. The path names the first way that TensorFlow found from the
saved object to the variable, so that a training run may hold its backbone under ``backbone/``
and its classifier under ``model/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from movinet_convert.checkpoint import ignored
from movinet_convert.checkpoint.bundle import BundleReader
from movinet_convert.checkpoint.names import Names, Weight, collect
from movinet_convert.checkpoint.naming import CLASSIFIER, arch_of_block_count, containers
from movinet_convert.errors import CheckpointError

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_LAYER = re.compile(r"(?P<parent>(?:.*/)?)layer_with_weights-(?P<k>\d{1,4})/(?P<rest>_\w.*)")
_STEM_KEY = re.compile(r"(?P<backbone>(?:.*/)?)layer_with_weights-0/_stem/.*")
_CLASSIFIER_PARTS = ("_head/", "_classifier/")


@dataclass(frozen=True)
class _Place:
    """A key taken apart: ``parent`` + ``layer_with_weights-{k}/`` + ``rest``."""

    parent: str
    k: int
    rest: str


def names_by_object_path(bundle: BundleReader) -> Names | None:
    """The names of a bundle whose keys are object paths; None if it has no MoViNet stem."""
    weights, rest = ignored.split(paths(bundle))
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
    return Names(_layout_name(backbone, rest), arch, *collect(pairs, rest, bundle))


def paths(bundle: BundleReader) -> dict[str, str]:
    """Object path -> key of every stored variable; CheckpointError if two have one path."""
    found: dict[str, str] = {}
    for key in bundle.names:
        first = found.setdefault(key.removesuffix(VALUE), key)
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


def unknown_variable(path: str, where: str) -> CheckpointError:
    """The error for what is neither a weight nor anything known to be stored beside them."""
    return CheckpointError(
        f"{where} holds the variable {path!r}, which is neither a MoViNet's nor one that training "
        "leaves beside the weights; the checkpoint is of another or a changed model."
    )


def _layout_name(backbone: str, rest: dict[str, str]) -> str:
    if any(reason != ignored.SAVE_COUNTER for reason in rest.values()):
        return "training"
    return "keras-tf-format" if backbone in ("", "layer_with_weights-0/") else "model-garden"
