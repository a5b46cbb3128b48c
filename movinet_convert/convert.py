"""From a TensorFlow checkpoint to a converted file in a store."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

import movinet_convert
from movinet_convert import mapping
from movinet_convert.checkpoint import Checkpoint, open_checkpoint
from movinet_convert.errors import CheckpointError, UsageError
from movinet_convert.fresh_head import fresh_head
from movinet_convert.manifest import ConvertedFrom, ConvertedVersion, ParityFigures
from movinet_convert.model import MoViNet
from movinet_convert.model.create import empty_model, fill, tensor_shapes
from movinet_convert.parity.options import ParityOptions
from movinet_convert.recognise import Recognised, recognise
from movinet_convert.sources import Source, given
from movinet_convert.store import Store, file_name, store_folder
from movinet_convert.variants import Activation, Gating, Settings, Variant
from movinet_convert.weightfile import (
    DTYPES,
    Dtype,
    Header,
    file_sha256,
    tensors_digest,
    write_weights,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from movinet_convert.parity import ParityReport

DEFAULT_PARITY = ParityOptions()


@dataclass(frozen=True)
class Converted:
    """A checkpoint as PyTorch tensors, float32, not yet written anywhere."""

    variant: Variant
    settings: Settings
    num_classes: int
    tensors: Mapping[str, NDArray[np.float32]]
    checkpoint: Checkpoint
    variables: Mapping[str, NDArray[np.generic]]  # the checkpoint's, and those that were drawn
    drawn: tuple[str, ...] = ()  # canonical paths that the checkpoint did not have

    @property
    def digest(self) -> str:
        """sha256 of names, shapes and float32 values, the same for every layout of the weights."""
        return tensors_digest(self.tensors)

    def to_model(self) -> MoViNet:
        """The network with these weights, in eval mode; the tensors are shared, not copied."""
        tensors = {name: torch.from_numpy(array) for name, array in self.tensors.items()}
        empty = empty_model(self.variant, self.settings, self.num_classes)
        return fill(empty, tensors, str(self.checkpoint.source)).eval()


@dataclass(frozen=True)
class Conversion:
    """What came of one job: the checkpoint, the parity report if one was asked for, the file."""

    converted: Converted
    report: ParityReport | None
    stored: Stored


@dataclass(frozen=True)
class Stored:
    """A converted file in a store; ``created`` is False where the same bytes were there before."""

    path: Path
    entry: ConvertedVersion
    created: bool


def convert(
    name: str | None,
    checkpoint: str | os.PathLike[str] | Source,
    *,
    gating: Gating | None = None,
    legacy: bool = False,
    head_activation: Activation = "swish",
    num_classes: int | None = None,
    out: str | os.PathLike[str] | None = None,
    dtype: Dtype = "float32",
    parity: ParityOptions | None = DEFAULT_PARITY,
) -> Conversion:
    """Convert a checkpoint, check it, and write it into a store.

    ``name`` confirms which variant it is, None leaves that to the checkpoint. ``gating`` must be
    given for a stream checkpoint that is not one of Google's; ``legacy`` says that 3D weights are
    those of an older, causal model. ``head_activation`` is that of the classifier's hidden layer:
    ``swish`` in all releases, ``hard_swish`` where the official training configurations of
    A1-, A4- and T0-Stream were followed. ``num_classes`` gives a backbone that was saved without a
    classifier an untrained one. ``out`` is the store, the default one if None. ``parity=None``
    skips the comparison with the official model, and with it the need for the extra [tf].

    Raises CheckpointError, ParityError, WeightsError; then nothing has been written.
    """
    source = checkpoint if isinstance(checkpoint, Source) else given(checkpoint)
    opened = open_checkpoint(source.path)
    found = recognise(
        opened, source, name=name, gating=gating, legacy=legacy, head_activation=head_activation
    )
    converted = convert_checkpoint(opened, found, num_classes)
    report = figures = None
    if parity is not None:
        report = _compare(converted, parity)
        report.raise_for_failure()
        figures = report.figures()
    store = Store(store_folder(out))
    stored = store_converted(converted, source, store, dtype=dtype, parity=figures)
    return Conversion(converted, report, stored)


def _compare(converted: Converted, parity: ParityOptions) -> ParityReport:
    from movinet_convert.parity import verify_model

    return verify_model(converted.to_model(), converted.variables, **dataclasses.asdict(parity))


def convert_checkpoint(
    checkpoint: Checkpoint, found: Recognised, num_classes: int | None = None
) -> Converted:
    """Convert the weights of a recognised checkpoint; CheckpointError unless all of them fit."""
    classes = _class_count(checkpoint, found, num_classes)
    variant, settings = found.variant, found.settings
    shapes = tensor_shapes(variant, settings, classes)
    pairs = mapping.links(variant, settings.conv_type, shapes)
    head = fresh_head(pairs) if found.num_classes is None else {}
    variables = {**checkpoint.variables, **head} if head else checkpoint.variables
    tensors = mapping.map_variables(variables, pairs, f"{variant.name} with {classes} classes")
    return Converted(variant, settings, classes, tensors, checkpoint, variables, tuple(head))


def _class_count(checkpoint: Checkpoint, found: Recognised, asked: int | None) -> int:
    if found.num_classes is None and asked is None:
        raise CheckpointError(
            f"{checkpoint.source} is a backbone of {found.variant.name} without classifier; "
            "pass --num-classes to give it an untrained one, or a checkpoint of the whole model."
        )
    if found.num_classes is not None and asked not in (None, found.num_classes):
        raise UsageError(
            f"{checkpoint.source} has a classifier of {found.num_classes} classes, not {asked}; "
            "leave --num-classes out, and give the loaded model a new one with "
            "load_converted(..., num_classes=...)."
        )
    return found.num_classes or asked or 0


def store_converted(
    converted: Converted,
    source: Source,
    store: Store,
    *,
    dtype: Dtype = "float32",
    parity: ParityFigures | None = None,
) -> Stored:
    """Write converted weights into a store; equal bytes that are there already are left alone.

    Other bytes become the variant's next version. The manifest names a file only once it is
    complete, so a run that is killed leaves the store as it was.
    """
    name = converted.variant.name
    digest = converted.digest
    header = Header(
        variant=name,
        settings=converted.settings,
        num_classes=converted.num_classes,
        source_digest=digest,
    )
    tensors = {
        name: torch.from_numpy(array).to(DTYPES[dtype]) for name, array in converted.tensors.items()
    }

    def write(path: Path) -> None:
        write_weights(path, tensors, header)

    with store.locked():
        manifest = store.manifest()
        known = manifest.versions(name)
        version = known[-1].version + 1 if known else 1
        file = file_name(name, version)
        with store.staged(file, write) as unfinished:
            sha256 = file_sha256(unfinished)
            same = next((entry for entry in known if entry.sha256 == sha256), None)
            if same is not None:
                entry = same if parity is None else same.model_copy(update={"parity": parity})
                file = same.file
            else:
                entry = ConvertedVersion(
                    version=version,
                    file=file,
                    bytes=unfinished.stat().st_size,
                    sha256=sha256,
                    dtype=dtype,
                    num_classes=converted.num_classes,
                    settings=converted.settings,
                    source=_converted_from(converted, source, digest),
                    converter=movinet_convert.__version__,
                    parity=parity,
                )
            there = same is not None and store.is_intact(same)
            if not there or entry not in known:
                store.commit(
                    manifest.with_version(name, entry), {} if there else {file: unfinished}
                )
    return Stored(store.folder / entry.file, entry, created=same is None)


def _converted_from(converted: Converted, source: Source, digest: str) -> ConvertedFrom:
    return ConvertedFrom(
        name=source.name,
        layout=converted.checkpoint.layout,
        digest=digest,
        archive_sha256=source.archive_sha256,
    )
