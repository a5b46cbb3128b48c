"""Load converted weights into a network; convert a release first if asked to."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from movinet_convert.errors import MovinetWarning
from movinet_convert.model import MoViNet
from movinet_convert.variants import VARIANTS
from movinet_convert.weights.load import load_file, locate
from movinet_convert.weights.naming import split_version, store_folder
from movinet_convert.weights.store import Store


def load_converted(
    name: str | os.PathLike[str],
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    version: int | None = None,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    fuse: bool = False,
    mmap: bool = True,
    download: bool = False,
) -> MoViNet:
    """Load converted weights: of a variant in the store, of a file, or from the Hugging Face Hub.

    ``name`` is a variant (``"a0-stream"``) or a name that was given at conversion; with ``version``
    or as ``"a0-stream@1"`` a version of it, by default the one converted last. Or it is the path of
    a file, or a repository on the Hub (``"hf://ORG/NAME"``, or ``"hf://ORG/NAME@REVISION"`` for a
    branch, tag or commit), which needs the extra [hub] and uses the Hub's cache, token and offline
    mode.

    The network is in eval mode, float32 and on the CPU by default. ``num_classes`` other than the
    file's keeps the backbone and initializes a new last layer. ``model.labels`` are the class names
    of the file, those of Kinetics-600 for 600 classes, and None if unknown. ``fuse=True`` folds
    batch normalization into the convolutions, for inference only.

    The weights are memory-mapped: while the network is in use, the file may be replaced or deleted,
    but must not be modified or truncated in place, which may kill the process. ``mmap=False`` reads
    it into memory instead. The logits are bit-equal: matrices that are not aligned in the file,
    with which products are rounded otherwise, are copied.

    With ``download=True``, a variant without weights in the store is converted into it from
    Google's release (``$MOVINET_SOURCE``, ``$MOVINET_CACHE_DIR``), without TensorFlow, and with a
    warning that nothing compared the result with the official model. The tensors must have the
    digest that is pinned for the release; where none is published, that recorded at first use.

    Warns about random synthetic weights, and about a file of the old format that no manifest
    lists, whose settings cannot be verified. Raises UsageError for an unknown name or device,
    WeightsError if the store or the file is missing, damaged or differs from the manifest, or
    cannot be downloaded from the Hub; with ``download``, also DownloadError and CheckpointError.
    """
    named = split_version(str(name), version) if download else None
    if named is not None and named[0] in VARIANTS:
        folder = store_folder(weights_dir)
        if not Store(folder).manifest().versions(named[0]):
            problem = _convert_release(named[0], folder)
            warnings.warn(problem, MovinetWarning, stacklevel=2)
    return load_file(
        locate(name, weights_dir=weights_dir, version=version),
        num_classes=num_classes,
        device=device,
        dtype=dtype or torch.float32,
        fuse=fuse,
        mmap=mmap,
    )


def _convert_release(name: str, folder: Path) -> str:
    """Convert the release of a variant into a store; returns what has not been verified."""
    # Imported here: weights that are there load without what converts them.
    from movinet_convert.conversion.pipeline import convert
    from movinet_convert.conversion.sources import release
    from movinet_convert.download.fetch import fetch_release
    from movinet_convert.model.settings import get_variant

    fetched = fetch_release(get_variant(name))
    done = convert(name, release(fetched), out=folder, parity=None)
    known = done.converted.source.known
    pinned = known is not None and known.trust == "pinned"
    digest = (
        "The digest of their tensors is the published one"
        if pinned
        else "No digest of their tensors is published: these were recorded, and others are refused "
        "from now on"
    )
    return (
        f"The weights of {name} were converted from Google's release, {fetched.address}, without "
        f"comparing them with the official model. {digest}. To compare them, install the extra "
        f"[tf] and run movinet-convert verify {done.stored.path}."
    )
