"""Recognise Google's releases by their tensors, and compare those of the two sources."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from movinet_convert.checkpoint import Checkpoint, open_checkpoint
from movinet_convert.checkpoint.structure import Structure, read_structure
from movinet_convert.download.fetch import FetchedRelease
from movinet_convert.download.known_tensors import (
    RECORD_NAME,
    KnownTensors,
    expected,
    known_by_digest,
)
from movinet_convert.download.released_tensors import released_tensors
from movinet_convert.errors import CheckpointError, MovinetWarning
from movinet_convert.variants import KINETICS_600_CLASSES, Variant
from movinet_convert.weights.file import tensors_digest

Tensors = Mapping[str, NDArray[np.float32]]

NAMED_KINETICS_400 = re.compile("k(inetics)?[-_]?400(?![0-9])", re.IGNORECASE)


def recognised(checkpoint: Checkpoint, structure: Structure) -> KnownTensors | None:
    """The release that has the tensors of a checkpoint, if any is known; arrays are then read."""
    try:
        known = known_by_digest()
        return known.get(tensors_digest(_tensors(checkpoint, structure))) if known else None
    except (CheckpointError, OSError):  # other variables than a release has; no readable cache
        return None


def confirm(
    release: FetchedRelease, checkpoint: Checkpoint, structure: Structure, pinned: str | None
) -> KnownTensors | None:
    """The known tensors of a fetched release; CheckpointError unless its checkpoint has these.

    Tensors that are not pinned, by this package or by a ``pinned`` digest, are recorded at first
    use. None for the checkpoint of another network.
    """
    try:
        tensors = _tensors(checkpoint, structure)
    except CheckpointError:
        return None
    digest = tensors_digest(tensors)
    known = expected(release, digest, pinned)
    if known.sha256 == digest:
        return known
    earlier, difference, advice = known.recorded, "", ""
    if earlier is not None:
        archive = release.path.with_name(earlier.archive)
        difference = _difference_from(archive, tensors)
        advice = (
            f"; if you trust it, remove {known.name!r} from {RECORD_NAME} in {release.path.parent}"
        )
    raise CheckpointError(
        f"{release.address} has other tensors than {known} (sha256 {digest} "
        f"instead of {known.sha256}{difference}); use another --source{advice}."
    )


def _tensors(checkpoint: Checkpoint, structure: Structure) -> Tensors:
    variant = Variant(structure.arch, "base" if structure.may_be_base else "stream")
    legacy = variant.causal and structure.conv_type == "3d"
    return released_tensors(checkpoint, structure, variant, legacy=legacy)


def first_difference(ours: Tensors, theirs: Tensors) -> str | None:
    """The first tensor that differs, and by how much; None if all are equal."""
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            return f"only one of them has {name}"
        one, other = ours[name], theirs[name]
        if one.shape != other.shape:
            return f"{name} has the shapes {one.shape} and {other.shape}"
        if one.tobytes() != other.tobytes():
            distance = np.abs(one.astype(np.float64) - other.astype(np.float64)).max()
            return f"{name} is the first that differs, by up to {distance:.3g}"
    return None


def check_name(path: Path, classes: int | None, known: KnownTensors | None) -> None:
    """Warn of a checkpoint that is named after Kinetics-400 and has weights of Kinetics-600."""
    named = NAMED_KINETICS_400.search(path.name) or NAMED_KINETICS_400.search(path.parent.name)
    if named is None or (known is None and classes != KINETICS_600_CLASSES):
        return
    weights = f"has {known}" if known else f"has {KINETICS_600_CLASSES} classes"
    warnings.warn(
        f"{path} is named after Kinetics-400 but {weights}. The archives published as Kinetics-400 "
        "are reported to be the Kinetics-600 weights (tensorflow/models issue 13566): use the "
        "labels of Kinetics-600.",
        MovinetWarning,
        stacklevel=2,
    )


def _difference_from(archive: Path, tensors: Tensors) -> str:
    """The first difference from the archive in the cache, if it is still there."""
    if not archive.is_file():
        return ""
    checkpoint = open_checkpoint(archive)
    found = first_difference(tensors, _tensors(checkpoint, read_structure(checkpoint)))
    return f"; {found}" if found else ""
