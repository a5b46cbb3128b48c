"""Whether an archive whose digest nobody has published can be the release it is named after.

A server, a mirror or a hand may put anything under a release's name. What is taken on trust must at
least be whole, undamaged to its last checksum, and hold exactly the published network: this
variant, its variables in their shapes, 600 classes. What cannot be seen so: other weights of the
same network.
"""

from __future__ import annotations

import os
from pathlib import Path

from movinet_convert.checkpoint import Checkpoint
from movinet_convert.checkpoint.archive import open_archive
from movinet_convert.download.request import shortened
from movinet_convert.errors import CheckpointError, DownloadError
from movinet_convert.variants import KINETICS_600_CLASSES, Variant

FAULT_CHARACTERS = 1000
END_OF_TAR = bytes(1024)  # two zero blocks (POSIX pax, "ustar Interchange Format")


def check_tar(path: Path, source: str) -> None:
    """Refuse an error page, a cut file or an unsafe archive; DownloadError."""
    try:
        archive = open_archive(path)
    except CheckpointError as error:
        raise DownloadError(f"{source} is not usable: {_fault(error)}") from error
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(END_OF_TAR)))
        complete = file.read() == END_OF_TAR
    if archive is None or not archive.members or not complete:
        problem = "is not a tar archive" if archive is None else "is a tar archive that ends early"
        raise DownloadError(
            f"{source} {problem}; expected the released checkpoint: check the source root and "
            "that no proxy answers in its place, then try again."
        )


def _fault(error: CheckpointError) -> str:
    """What a reader says of an archive, which may quote names of any length from it."""
    return shortened(str(error), FAULT_CHARACTERS)


def check_release(path: Path, variant: Variant, source: str) -> None:
    """Read all of the archive at ``path``; DownloadError unless it holds the variant's network."""
    from movinet_convert.checkpoint import open_checkpoint

    try:
        _check_every_checksum(path)
        _check_network(open_checkpoint(path), variant)
    except CheckpointError as error:
        raise DownloadError(
            f"{source} is no release of {variant.name}; delete it or name another source root, or "
            f"convert it as a checkpoint of your own with --checkpoint: {_fault(error)}"
        ) from error


def _check_every_checksum(path: Path) -> None:
    """Those of the index were checked when it was opened; each tensor's is when it is read."""
    from movinet_convert.checkpoint.bundle import BundleReader
    from movinet_convert.checkpoint.locate import locate_bundle

    files, prefix = locate_bundle(path)
    bundle = BundleReader(files.open, prefix)
    for name, entry in bundle.entries.items():
        if entry.is_string:
            bundle.read_string(name)
        else:
            bundle.read(name)


def _check_network(checkpoint: Checkpoint, variant: Variant) -> None:
    from movinet_convert.checkpoint import mapping
    from movinet_convert.checkpoint.identify import identify
    from movinet_convert.model.create import tensor_shapes

    classes = identify(checkpoint).classes
    if classes != KINETICS_600_CLASSES:
        raise CheckpointError(
            f"it has {classes or 'no'} classes where every release has {KINETICS_600_CLASSES}."
        )
    settings = variant.settings()
    shapes = tensor_shapes(variant, settings, KINETICS_600_CLASSES)
    pairs = mapping.links(variant, settings.conv_type, shapes)
    mapping.map_variables(checkpoint.variables, pairs, variant.name)
