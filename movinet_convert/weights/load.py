"""Load converted weights into a network."""

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
from movinet_convert.model.devices import usable_device
from movinet_convert.model.layers import Linear
from movinet_convert.model.settings import check_num_classes, get_variant
from movinet_convert.variants import VARIANTS
from movinet_convert.weights.entries import ConvertedVersion
from movinet_convert.weights.file import check_content, read_header, read_tensors
from movinet_convert.weights.hub_files import HubAddress, download_weights, is_hub_address
from movinet_convert.weights.labels import known_names
from movinet_convert.weights.manifest import MANIFEST_NAME
from movinet_convert.weights.naming import split_version, store_folder
from movinet_convert.weights.store import Store, check_bytes


@dataclass(frozen=True)
class WeightsFile:
    """A converted file and, where a manifest lists it, its variant and its entry there."""

    path: Path
    variant: str | None = None
    entry: ConvertedVersion | None = None

    def check(self) -> None:
        """Compare size, sha256 and settings with the manifest; WeightsError if they differ.

        A file that no manifest lists is verified against the digest in its own header.
        """
        if self.entry is None:
            check_content(self.path)
        else:
            check_bytes(self.path, self.entry)
            self._check_header(self.entry)

    def _check_header(self, entry: ConvertedVersion) -> None:
        header = read_header(self.path)
        dtypes = {str(t.dtype).removeprefix("torch.") for t in read_tensors(self.path).values()}
        facts: dict[str, tuple[object, object]] = {
            "variant": (self.variant, header.variant),
            "settings": (entry.settings, header.settings),
            "num_classes": (entry.num_classes, header.num_classes),
            "dtype": (entry.dtype, " and ".join(sorted(dtypes))),
            "source digest": (entry.source.digest, header.source_digest),
        }
        if header.format_version > 1:
            facts["origins"] = (entry.origins, header.origins)
            facts["source kind"] = (entry.source.kind, header.source)
        for fact, (recorded, found) in facts.items():
            if recorded != found:
                raise WeightsError(
                    f"{MANIFEST_NAME} records the {fact} {recorded} for {self.path}, but its "
                    f"header has {found}; one of the two was edited: restore it, or convert again."
                )


def locate(
    name: str | os.PathLike[str],
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    version: int | None = None,
) -> WeightsFile:
    """Find the file of a name in the store, at a path or on the Hub, without verifying it.

    ``name@N`` is a version of a name. A path is looked up in the manifest of its folder, or of the
    folder of the file that it links to. The file of a repository on the Hub (``hf://…``) is
    downloaded into the Hub's cache. Raises as ``load_converted``.
    """
    named = split_version(str(name), version)
    if named is not None:
        store = Store(store_folder(weights_dir))
        variant = named[0] if named[0] in VARIANTS else store.manifest().converted.get(named[0])
        if variant is not None or not Path(name).exists():
            entry = store.find(*named)
            return WeightsFile(store.folder / entry.file, variant, entry)
    if is_hub_address(name):
        if version is not None:
            raise UsageError(f"{name} has revisions, not versions; pass hf://ORG/NAME@REVISION.")
        path = download_weights(HubAddress.parse(str(name)))
    else:
        path = _given_file(Path(name), version)
    for folder in dict.fromkeys((path.parent, path.resolve().parent)):
        if (listed := Store(folder).listed(path)) is not None:
            return WeightsFile(path, *listed)
    return WeightsFile(path)


def _given_file(path: Path, version: int | None) -> Path:
    if version is not None:
        raise UsageError(f"{path} is a file and has no versions; omit version.")
    if not path.is_file():
        raise WeightsError(f"There is no file {path}.")
    return path


def find_file(
    name: str | os.PathLike[str], *, weights_dir: str | os.PathLike[str] | None = None
) -> Path:
    """The path of the file of a name, or the path itself, after verification."""
    file = locate(name, weights_dir=weights_dir)
    file.check()
    return file.path


def load_file(
    file: WeightsFile,
    *,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    fuse: bool = False,
    mmap: bool = True,
) -> MoViNet:
    """The network of a file, in eval mode and, by default, the file's dtype.

    The options, warnings and errors are those of ``load_converted``.
    """
    if device is not None:
        device = usable_device(device)
    with torch.inference_mode(False):  # tensors created in inference mode cannot be trained
        model = read_network(file, mmap=mmap)
        if num_classes is not None and num_classes != model.num_classes:
            _replace_classifier(model, num_classes)
        model = model.to(device=device, dtype=dtype)
        if fuse:
            from movinet_convert.model.fuse import fuse as fused

            model = fused(model)
    problem = _reason_to_warn(file)
    if problem is not None:
        warnings.warn(f"{file.path} {problem}", MovinetWarning, stacklevel=3)
    return model


def _reason_to_warn(file: WeightsFile) -> str | None:
    header = read_header(file.path)
    if header.source == "synthetic":
        return (
            "has random synthetic weights, made for tests; its predictions are meaningless. "
            f"Convert the release of {header.variant}, or your own checkpoint."
        )
    if header.digest is None and file.entry is None:
        return (
            "has an unverified header: it is of an older format without a digest of the settings "
            f"({header.settings.gating} gating, {header.num_classes} classes), and no manifest "
            "in its folder lists it; convert the checkpoint again."
        )
    return None


def read_network(file: WeightsFile, *, mmap: bool = True) -> MoViNet:
    """The network of a file, in eval mode and the file's dtype, without a warning."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        # Verification takes about as long as building the network, so both run in parallel; no
        # tensors are read before it has passed.
        checking = pool.submit(file.check)
        try:
            header = read_header(file.path)
            model = empty_model(get_variant(header.variant), header.settings, header.num_classes)
        finally:
            checking.result()
    model.origins = header.origins
    model.labels = known_names(header.labels, header.num_classes)
    return fill(model, read_tensors(file.path, mmap=mmap), str(file.path)).eval()


def _replace_classifier(model: MoViNet, num_classes: int) -> None:
    check_num_classes(num_classes)
    old = model.classifier.output
    new = Linear(old.in_features, num_classes).to(old.weight.device, old.weight.dtype)
    model.classifier.output = new.train(old.training)
    model.num_classes, model.labels = num_classes, None
    initialize_classifier(model)
