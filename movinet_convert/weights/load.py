"""From a converted file to a network that runs."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from movinet_convert.errors import MovinetWarning, UsageError, WeightsError
from movinet_convert.model import MoViNet
from movinet_convert.model.create import empty_model, fill, initialize_classifier
from movinet_convert.model.layers import Linear
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import VARIANTS
from movinet_convert.weights.file import (
    Header,
    check_content,
    read_header,
    read_tensors,
    stored_dtype,
)
from movinet_convert.weights.manifest import MANIFEST_NAME, ConvertedVersion
from movinet_convert.weights.store import Listed, Store, find_listed, store_folder

SUFFIX = ".safetensors"


@torch.inference_mode(False)  # tensors made in inference mode could not be trained
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
) -> MoViNet:
    """Load converted weights: a variant of the store (``"a0-stream"``) or a file's path.

    The network comes in eval mode, float32 and on the CPU unless told otherwise. ``num_classes``
    other than the file's keeps the backbone and draws a new last layer. ``fuse=True`` folds the
    normalisations into the convolutions, for inference only.

    The weights are memory-mapped: while the network is in use, the file may be replaced or
    deleted, as this package does, but must not be changed or cut short in place, which kills the
    process. ``mmap=False`` reads it into memory instead.

    Warns of random synthetic weights, and of a file of the old format that no manifest lists: its
    settings cannot be verified.

    Raises UsageError for an unknown name, WeightsError where the store or the file is missing,
    damaged, or not what the manifest records.
    """
    model = load_file(locate(name, weights_dir=weights_dir, version=version), mmap=mmap)
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
    """A converted file and, where a manifest lists it, the variant and what is recorded of it."""

    path: Path
    listed: Listed | None

    @property
    def entry(self) -> ConvertedVersion | None:
        return self.listed.entry if self.listed is not None else None

    def checked(self) -> Path:
        """The path, once size, sha256 and settings have been compared with the manifest.

        Where none lists it, its content with the digest in its own header.
        """
        if self.listed is None:
            check_content(self.path)
            return self.path
        store = Store(self.listed.folder)
        path = store.checked_path(self.listed.entry)
        _check_entry(path, self.listed)
        return path

    def warn(self, header: Header) -> None:
        """Say what a user must know before trusting what the network answers."""
        if header.digest is None and self.listed is None:
            warnings.warn(
                f"{self.path} has an unverified header: it is of an older format without a digest "
                f"of its settings ({header.settings.gating} gating, {header.num_classes} classes), "
                "and no manifest beside it lists it; convert the checkpoint again.",
                MovinetWarning,
                stacklevel=3,
            )
        if header.source == "synthetic":
            warnings.warn(
                f"{self.path} holds random synthetic weights, made for tests; what it predicts "
                f"means nothing. Convert the release of {header.variant}, or your own checkpoint.",
                MovinetWarning,
                stacklevel=3,
            )


def load_file(located: Located, *, mmap: bool = True) -> MoViNet:
    """The network of a file, in eval mode and the file's own type; warns as ``load_converted``."""
    model = read_network(located, mmap=mmap)
    located.warn(read_header(located.path))
    return model


def read_network(located: Located, *, mmap: bool = True) -> MoViNet:
    """The network of a file, in eval mode and the file's own type, without a warning."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        # The digest takes about as long as building the network; nothing of the file but its
        # description is looked at before the digest is known to be right.
        checking = pool.submit(located.checked)
        try:
            header = read_header(located.path)
            model = empty_model(header.to_variant(), header.settings, header.num_classes)
        finally:
            path = checking.result()
    model.origins = header.origins
    return fill(model, read_tensors(path, mmap=mmap), str(path)).eval()


def _check_entry(path: Path, listed: Listed) -> None:
    """Refuse a manifest that says something else of a file than the file itself."""
    header, entry = read_header(path), listed.entry
    facts = {
        "variant": (listed.variant, header.variant),
        "settings": (entry.settings, header.settings),
        "num_classes": (entry.num_classes, header.num_classes),
        "dtype": (entry.dtype, stored_dtype(read_tensors(path))),
        "source digest": (entry.source.digest, header.source_digest),
    }
    if header.format_version > 1:
        facts["origins"] = (entry.origins, header.origins)
        facts["source kind"] = (entry.source.kind, header.source)
    for fact, (recorded, found) in facts.items():
        if recorded != found:
            raise WeightsError(
                f"{MANIFEST_NAME} records the {fact} {recorded} for {path}, whose header says "
                f"{found}; one of the two was edited: restore it, or convert again."
            )


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
        return Located(store.folder / entry.file, Listed(store.folder, str(name), entry))
    path = Path(name)
    if path.suffix != SUFFIX and not path.exists():
        get_variant(str(name))  # says which names there are
    if version is not None:
        raise UsageError(f"{path} is a file and has no versions; leave version out.")
    if not path.is_file():
        raise WeightsError(f"There is no file {path}.")
    return Located(path, find_listed(path))


def _replace_classifier(model: MoViNet, num_classes: int) -> None:
    if type(num_classes) is not int or num_classes < 1:
        raise UsageError(f"num_classes is a whole number from 1 on; got {num_classes!r}.")
    old = model.classifier.output
    fresh = Linear(old.in_features, num_classes).to(old.weight.device, old.weight.dtype)
    model.classifier.output = fresh.train(old.training)
    model.num_classes = num_classes
    initialize_classifier(model)
