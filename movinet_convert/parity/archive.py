"""Synthetic checkpoints on disk, in the layout of the released archives."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

from movinet_convert.parity.reference import official_model
from movinet_convert.parity.synthetic import synthetic_variables
from movinet_convert.variants import KINETICS_600_CLASSES, Settings, Variant


def write_synthetic(
    variant: Variant,
    folder: Path,
    *,
    seed: int = 0,
    num_classes: int = KINETICS_600_CLASSES,
    settings: Settings | None = None,
) -> Path:
    """Write a seeded checkpoint below ``folder``; returns e.g. ``folder/movinet_a0_stream``.

    The official TensorFlow model itself saves it, with ``tf.train.Checkpoint(model=model)``.
    ``settings`` matter only for layouts other than the released ones: gating has no weights.
    Raises MissingExtraError without TensorFlow.
    """
    reference = official_model(variant, settings or variant.settings(), num_classes)
    reference.load(synthetic_variables(variant, reference.shapes, seed=seed))
    target = folder / variant.release_folder
    target.mkdir(parents=True, exist_ok=True)
    reference.save(target)
    return target


def write_synthetic_archive(
    variant: Variant,
    folder: Path,
    *,
    seed: int = 0,
    num_classes: int = KINETICS_600_CLASSES,
    settings: Settings | None = None,
) -> Path:
    """The same as an archive; returns e.g. ``folder/movinet_a0_stream.tar.gz``.

    Like the released ones, it is an uncompressed tar in spite of its name.
    """
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = write_synthetic(
            variant, Path(scratch), seed=seed, num_classes=num_classes, settings=settings
        )
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / variant.archive_name
        _write_tar(archive, checkpoint)
    return archive


def _write_tar(archive: Path, folder: Path) -> None:
    """Times, owners and modes would make two equal checkpoints differ, so they are fixed."""
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in (folder, *sorted(folder.iterdir())):
            info = tar.gettarinfo(path, path.relative_to(folder.parent).as_posix())
            info.mtime = info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mode = 0o755 if path.is_dir() else 0o644
            if path.is_dir():
                tar.addfile(info)
            else:
                with path.open("rb") as content:
                    tar.addfile(info, content)
