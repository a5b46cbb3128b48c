"""From a TensorFlow checkpoint to a converted file in a store."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from movinet_convert.checkpoint import Checkpoint, mapping, open_checkpoint
from movinet_convert.conversion.gating import GatingEvidence, gating_evidence
from movinet_convert.conversion.head import fresh_head
from movinet_convert.conversion.recognition import Recognised, recognise
from movinet_convert.conversion.sources import Source, given
from movinet_convert.errors import CheckpointError, UsageError
from movinet_convert.files.version import __version__
from movinet_convert.model import MoViNet
from movinet_convert.model.create import empty_model, fill, tensor_shapes
from movinet_convert.parity.comparison import verify_model
from movinet_convert.parity.options import DEFAULT_PARITY, TOLERANCES, ParityOptions
from movinet_convert.parity.result import ParityResult
from movinet_convert.variants import Activation, Gating, Origins, Settings, Variant
from movinet_convert.weights.file import (
    DTYPES,
    Dtype,
    Header,
    tensors_digest,
    write_weights,
)
from movinet_convert.weights.load import WeightsFile, read_network
from movinet_convert.weights.manifest import ConvertedFrom
from movinet_convert.weights.store import Store, Stored, store_folder
from movinet_convert.weights.tf_variables import tf_variables


@dataclass(frozen=True)
class Converted:
    """A checkpoint as PyTorch tensors, float32, not yet written anywhere."""

    variant: Variant
    settings: Settings
    origins: Origins
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
        model = fill(empty, tensors, str(self.checkpoint.source)).eval()
        model.origins = self.origins
        return model


@dataclass(frozen=True)
class Conversion:
    """What came of one job: the checkpoint, the file in the store, how it compared.

    ``parity`` compares the stored file with the official model that has the checkpoint's
    variables, ``parity_as_stored`` a file of reduced precision with one that has the rounded
    values; None where no comparison was asked for.
    """

    converted: Converted
    parity: ParityResult | None
    parity_as_stored: ParityResult | None
    stored: Stored
    gating_evidence: GatingEvidence | None = None  # where the gating was read from the weights


def convert(
    name: str | None,
    checkpoint: str | os.PathLike[str] | Source,
    *,
    gating: Gating | Literal["auto"] | None = None,
    gating_clips: Callable[[Variant], Tensor] | None = None,
    legacy: bool = False,
    head_activation: Activation | None = None,
    num_classes: int | None = None,
    out: str | os.PathLike[str] | None = None,
    dtype: Dtype = "float32",
    parity: ParityOptions | None = DEFAULT_PARITY,
) -> Conversion:
    """Convert a checkpoint, write it into a store, and compare what was written.

    ``name`` confirms which variant it is, None leaves that to the checkpoint. ``gating`` and
    ``head_activation`` (of the classifier's hidden layer) must be given for a stream checkpoint
    that is not one of Google's; ``legacy`` says that 3D weights are those of an older, causal
    model. ``gating="auto"`` reads it from the moving statistics: ``gating_clips`` is called with
    the variant for clips (N, 3, T, H, W) like those of the training, as
    ``video.clips.read_clips`` reads them; UsageError where they do not tell.
    ``num_classes`` gives a backbone that was saved without a classifier an untrained one. ``out``
    is the store, the default one if None.
    ``parity=None`` skips the comparison with the official model, and with it the need for the
    extra [tf].

    The file is written beside its place, read back in its own ``dtype``, compared, and only then
    moved. Raises CheckpointError, ParityError, WeightsError; then the store is as it was.
    """
    source = checkpoint if isinstance(checkpoint, Source) else given(checkpoint)
    opened = open_checkpoint(source.path)
    said: dict[str, Any] = {"name": name, "legacy": legacy, "head_activation": head_activation}
    evidence = None
    if gating == "auto":
        model = model_of_either_gating(opened, source, **said)
        evidence = _gating_from_clips(model, gating_clips, str(source.path))
        gating = evidence.told
    found = recognise(opened, source, gating=gating, **said)
    if evidence is not None:
        origins = dataclasses.replace(found.origins, gating="checkpoint")
        found = dataclasses.replace(found, origins=origins)
    converted = convert_checkpoint(opened, found, num_classes)
    with staged(converted, source, Store(store_folder(out)), dtype) as file:
        result = as_stored = None
        if parity is not None:
            result, as_stored = compare_staged(file, parity)
        stored = file.commit(result, as_stored)
    return Conversion(converted, result, as_stored, stored, evidence)


def _gating_from_clips(
    model: MoViNet, clips: Callable[[Variant], Tensor] | None, what: str
) -> GatingEvidence:
    if clips is None:
        raise UsageError(
            "Gating auto needs videos such as the network was trained on; pass --gating-clips DIR."
        )
    evidence = gating_evidence(model, clips(model.variant))
    if evidence.told is None:
        raise UsageError(
            f"The moving statistics of {what} leave its gating open: {evidence.summary()}. Say "
            "--gating keras or --gating model-garden; or, if it was trained on clips of another "
            "size, length or frame rate than the release, ask movinet-convert inspect --gating "
            "with --size, --frames and --fps first."
        )
    return evidence


def model_of_either_gating(checkpoint: Checkpoint, source: Source, **said: Any) -> MoViNet:
    """The stream network of a checkpoint whose gating is in question, built with one of the two.

    A backbone gets a classifier of one class. ``said`` as of ``recognise``, which raises UsageError
    for a base model.
    """
    found = recognise(checkpoint, source, gating="keras", **said)
    return convert_checkpoint(checkpoint, found, None if found.num_classes else 1).to_model()


def compare_staged(file: Staged, parity: ParityOptions) -> tuple[ParityResult, ParityResult | None]:
    """Compare a written file with the checkpoint and, if it was rounded, with its own values.

    Rounding hides small mistakes, so a file of reduced precision must also agree, as a float32
    file must, with the official model that holds the very values it stores. Raises ParityError.
    """
    as_stored = None
    if file.dtype != "float32":
        strict = dataclasses.replace(parity, tolerance=TOLERANCES["float32"])
        as_stored = verify_model(file.model, tf_variables(file.model), strict, dtype="float32")
        as_stored.raise_for_failure()
    result = verify_model(file.model, file.converted.variables, parity)
    result.raise_for_failure()
    return result, as_stored


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
    return Converted(
        variant, settings, found.origins, classes, tensors, checkpoint, variables, tuple(head)
    )


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


@dataclass(frozen=True)
class Staged:
    """A converted file that is written but not yet in its place.

    ``model`` was built from what the file says and holds, read back in the file's own type.
    """

    path: Path
    model: MoViNet
    converted: Converted
    source: Source
    store: Store
    dtype: Dtype

    def commit(
        self, result: ParityResult | None = None, as_stored: ParityResult | None = None
    ) -> Stored:
        """Move the file into the store; see ``Store.add``."""
        converted = self.converted
        return self.store.add(
            converted.variant.name,
            self.path,
            dtype=self.dtype,
            num_classes=converted.num_classes,
            settings=converted.settings,
            origins=converted.origins,
            source=ConvertedFrom(
                name=self.source.name,
                layout=converted.checkpoint.layout,
                digest=converted.digest,
                archive_sha256=self.source.archive_sha256,
                kind=self.source.provenance,
            ),
            converter=__version__,
            parity=result.figures() if result is not None else None,
            parity_as_stored=as_stored.figures() if as_stored is not None else None,
        )


@contextmanager
def staged(
    converted: Converted, source: Source, store: Store, dtype: Dtype = "float32"
) -> Iterator[Staged]:
    """Write converted weights beside their place in a store, and read them back.

    The file is gone afterwards unless it was committed. Raises CheckpointError for a value that
    ``dtype`` cannot hold, WeightsError where the file cannot be written or does not read back.
    """
    header = Header(
        variant=converted.variant.name,
        settings=converted.settings,
        num_classes=converted.num_classes,
        source=source.provenance,
        origins=converted.origins,
        source_digest=converted.digest,
    )
    tensors = _rounded(converted, dtype)
    with store.staging() as folder:
        path = folder / "weights.safetensors"
        with store.writing(path):
            write_weights(path, tensors, header)
        model = read_network(WeightsFile(path))
        yield Staged(path, model, converted, source, store, dtype)


def _rounded(converted: Converted, dtype: Dtype) -> dict[str, Tensor]:
    tensors = {}
    for name, array in converted.tensors.items():
        tensor = torch.from_numpy(array).to(DTYPES[dtype])
        if not bool(torch.isfinite(tensor).all()):
            largest = float(np.abs(array).max())
            raise CheckpointError(
                f"{converted.checkpoint.source}: {name} holds values up to {largest:g}, which "
                f"{dtype} cannot: its largest is {torch.finfo(DTYPES[dtype]).max:g}; convert with "
                "--dtype float32 or bfloat16."
            )
        tensors[name] = tensor
    return tensors
