"""From a converted file to a network that runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.model.create import empty_model, fill, initialize_classifier
from movinet_convert.model.layers import Linear
from movinet_convert.store import Store, store_folder
from movinet_convert.variants import VARIANTS, get_variant
from movinet_convert.weightfile import check_content, read_header, read_tensors

if TYPE_CHECKING:
    import os

    from movinet_convert.manifest import ConvertedVersion
    from movinet_convert.model import MoViNet

SUFFIX = ".safetensors"


def load_converted(
    name: str | os.PathLike[str],
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    version: int | None = None,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    fuse: bool = False,
) -> MoViNet:
    """Load converted weights: a variant of the store (``"a0-stream"``) or a file's path.

    The network comes in eval mode, float32 and on the CPU unless told otherwise. ``num_classes``
    other than the file's keeps the backbone and draws a new last layer. ``fuse=True`` folds the
    normalisations into the convolutions, for inference only.

    Raises UsageError for an unknown name, WeightsError where the store or the file is missing,
    damaged, or not what the manifest records.
    """
    model = load_file(locate(name, weights_dir=weights_dir, version=version))
    if num_classes is not None and num_classes != model.num_classes:
        _replace_classifier(model, num_classes)
    dtype = dtype or torch.float32
    if device is not None or dtype != model.dtype:
        model = model.to(device=device, dtype=dtype)
    if fuse:
        from movinet_convert.model.fuse import fuse as fused

        model = fused(model)
    return model


@dataclass(frozen=True)
class Located:
    """A converted file and, where a manifest lists it, what that records of it."""

    path: Path
    entry: ConvertedVersion | None

    def checked(self) -> Path:
        """The path, once size and sha256 have been compared with the manifest.

        Where none lists it, its tensors with the digest in its own header.
        """
        if self.entry is None:
            check_content(self.path)
            return self.path
        return Store(self.path.parent).checked_path(self.entry)


def load_file(located: Located) -> MoViNet:
    """The network of a file, in eval mode and the file's own type."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        # The digest takes about as long as building the network; nothing of the file but its
        # description is looked at before the digest is known to be right.
        checking = pool.submit(located.checked)
        try:
            header = read_header(located.path)
            model = empty_model(header.to_variant(), header.settings, header.num_classes)
        finally:
            path = checking.result()
    return fill(model, read_tensors(path), str(path)).eval()


def find_file(
    name: str | os.PathLike[str],
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    version: int | None = None,
) -> Path:
    """The checked file of a variant's name, or of a path; see ``load_converted``."""
    return locate(name, weights_dir=weights_dir, version=version).checked()


def locate(
    name: str | os.PathLike[str],
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    version: int | None = None,
) -> Located:
    """Where the file of a variant's name lies, or of a path; it has not been checked."""
    if str(name) in VARIANTS:
        store = Store(store_folder(weights_dir))
        entry = store.find(str(name), version)
        return Located(store.folder / entry.file, entry)
    path = Path(name)
    if path.suffix != SUFFIX and not path.exists():
        get_variant(str(name))  # says which names there are
    if version is not None:
        raise UsageError(f"{path} is a file and has no versions; leave version out.")
    if not path.is_file():
        raise WeightsError(f"There is no file {path}.")
    return Located(path, Store(path.parent).listed(path))


def _replace_classifier(model: MoViNet, num_classes: int) -> None:
    if num_classes < 1:
        raise UsageError(f"num_classes is at least 1, got {num_classes}.")
    hidden = model.classifier.output.in_features
    model.classifier.output = Linear(hidden, num_classes)
    model.num_classes = num_classes
    initialize_classifier(model)
