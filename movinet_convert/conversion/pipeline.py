"""Convert a TensorFlow checkpoint to a verified file in a store."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from movinet_convert.conversion.gating import GatingEvidence, gating_evidence
from movinet_convert.conversion.sources import Source, given
from movinet_convert.conversion.tensors import Converted, convert_checkpoint
from movinet_convert.errors import CheckpointError, UsageError
from movinet_convert.files.version import __version__
from movinet_convert.model import MoViNet
from movinet_convert.parity.comparison import Stage, silent, verify_model
from movinet_convert.parity.options import DEFAULT_PARITY, TOLERANCES, ParityOptions
from movinet_convert.parity.result import ParityResult
from movinet_convert.variants import Activation, Gating, Variant
from movinet_convert.weights.entries import ConvertedFrom
from movinet_convert.weights.file import DTYPES, write_weights
from movinet_convert.weights.header import Dtype, Header
from movinet_convert.weights.labels import Labels, given_names
from movinet_convert.weights.load import WeightsFile, read_network
from movinet_convert.weights.naming import store_folder
from movinet_convert.weights.store import Store, Stored
from movinet_convert.weights.tf_variables import tf_variables


@dataclass(frozen=True)
class Conversion:
    """The result of ``convert``: the checkpoint, the file in the store, and its comparison.

    ``parity`` compares the stored file with the official model with the checkpoint's variables,
    ``parity_as_stored`` a file of reduced precision with that model with the rounded values; None
    if skipped. ``gating_evidence`` is None unless the gating was detected. ``labels`` are the class
    names that were given, None if none were.
    """

    converted: Converted
    parity: ParityResult | None
    parity_as_stored: ParityResult | None
    stored: Stored
    gating_evidence: GatingEvidence | None = None
    labels: tuple[str, ...] | None = None


def convert(
    name: str | None,
    checkpoint: str | os.PathLike[str] | Source,
    *,
    gating: Gating | Literal["auto"] | None = None,
    gating_clips: Callable[[Variant], Tensor] | None = None,
    legacy: bool = False,
    head_activation: Activation | None = None,
    num_classes: int | None = None,
    labels: Labels | None = None,
    out: str | os.PathLike[str] | None = None,
    store_as: str | None = None,
    dtype: Dtype = "float32",
    parity: ParityOptions | None = DEFAULT_PARITY,
    stage: Stage = silent,
) -> Conversion:
    """Convert a checkpoint, write it to a store, and compare the written file with TensorFlow.

    ``name`` is the expected variant; with None the checkpoint determines it. ``gating`` and
    ``head_activation`` (of the classifier's hidden layer) are required for a stream checkpoint that
    is not Google's; ``legacy`` means that 3D weights are those of an older, causal model.
    ``gating="auto"`` detects the gating from the moving statistics: ``gating_clips`` is called with
    the variant and returns clips (N, 3, T, H, W) like those of training, such as from
    ``video.clips.read_clips``; UsageError if they are inconclusive. ``num_classes`` adds an
    untrained classifier to a backbone that was saved without one. ``labels``, class names in the
    order of the logits or a file with one per line, are written into the file. ``out`` is the
    store; None is the default store. ``store_as`` is the name there, by default that of the
    variant, where the weights take the place of a release. ``parity=None`` skips the comparison,
    and then the extra [tf] is not needed. ``stage`` is called with each step, such as "this
    network, case 2 of 7: batch".

    The file is written to a staging folder, read back in its own ``dtype``, compared, and only
    then moved. Raises CheckpointError, ParityError, WeightsError, leaving the store unchanged.
    """
    stage("reading the checkpoint")
    source = checkpoint if isinstance(checkpoint, Source) else given(checkpoint)
    converted = convert_checkpoint(
        source,
        name=name,
        gating="keras" if gating == "auto" else gating,
        legacy=legacy,
        head_activation=head_activation,
        num_classes=num_classes,
    )
    names = given_names(labels, converted.num_classes)
    evidence = None
    if gating == "auto":
        stage("detecting the gating with videos")
        converted, evidence = _with_detected_gating(converted, gating_clips)
    store = Store(store_folder(out))
    store.check_name(store_as or converted.variant.name, converted.variant.name)
    stage("writing the file")
    with staged(converted, store, dtype, names) as file:
        result = as_stored = None
        if parity is not None:
            result, as_stored = compare_staged(file, parity, stage)
        stored = file.commit(result, as_stored, store_as)
    return Conversion(converted, result, as_stored, stored, evidence, names)


def _with_detected_gating(
    converted: Converted, clips: Callable[[Variant], Tensor] | None
) -> tuple[Converted, GatingEvidence]:
    if converted.checkpoint.graph is not None:
        raise UsageError(
            f"The operators of {converted.source.path} compute gating "
            f"{converted.settings.gating!r}; leave out --gating auto, nothing is left to detect."
        )
    if clips is None:
        raise UsageError(
            "--gating auto needs videos like those of training; pass --gating-clips DIR."
        )
    evidence = gating_evidence(converted.to_model(), clips(converted.variant))
    if evidence.gating is None:
        raise UsageError(
            f"The moving statistics of {converted.source.path} do not determine its gating: "
            f"{evidence.summary()}. Pass --gating keras or --gating model-garden; or, if the size, "
            "length or frame rate of its training clips differ from the release, run "
            "movinet-convert inspect --gating with --size, --frames and --fps first."
        )
    settings = dataclasses.replace(converted.settings, gating=evidence.gating)
    origins = dataclasses.replace(converted.origins, gating="checkpoint")
    return dataclasses.replace(converted, settings=settings, origins=origins), evidence


@dataclass(frozen=True)
class Staged:
    """A converted file in a staging folder; ``model`` was read back from it, in its dtype."""

    path: Path
    model: MoViNet
    converted: Converted
    store: Store
    dtype: Dtype

    def commit(
        self,
        result: ParityResult | None = None,
        as_stored: ParityResult | None = None,
        name: str | None = None,
    ) -> Stored:
        """Move the file into the store, as its variant or ``name``; see ``Store.add``."""
        converted, source = self.converted, self.converted.source
        return self.store.add(
            name or converted.variant.name,
            self.path,
            variant=converted.variant.name,
            dtype=self.dtype,
            num_classes=converted.num_classes,
            settings=converted.settings,
            origins=converted.origins,
            source=ConvertedFrom(
                name=source.name,
                layout=converted.checkpoint.layout,
                digest=converted.digest,
                archive_sha256=source.archive_sha256,
                kind=source.provenance,
                trust=source.known.trust if source.known else None,
                **source.fetched_from,
            ),
            converter=__version__,
            parity=result.figures() if result is not None else None,
            parity_as_stored=as_stored.figures() if as_stored is not None else None,
        )


@contextmanager
def staged(
    converted: Converted,
    store: Store,
    dtype: Dtype = "float32",
    labels: tuple[str, ...] | None = None,
) -> Iterator[Staged]:
    """Write converted weights to a staging folder of the store, and read them back.

    The file is removed afterwards unless committed. Raises CheckpointError for a value that
    ``dtype`` cannot represent, WeightsError if the file cannot be written and read back.
    """
    header = Header(
        variant=converted.variant.name,
        settings=converted.settings,
        num_classes=converted.num_classes,
        source=converted.source.provenance,
        origins=converted.origins,
        source_digest=converted.digest,
        labels=labels,
    )
    tensors = _rounded(converted, dtype)
    with store.staging() as folder:
        path = folder / "weights.safetensors"
        with store.writing(path):
            write_weights(path, tensors, header)
        yield Staged(path, read_network(WeightsFile(path)), converted, store, dtype)


def _rounded(converted: Converted, dtype: Dtype) -> dict[str, Tensor]:
    tensors = {}
    for name, array in converted.tensors.items():
        tensor = torch.from_numpy(array).to(DTYPES[dtype])
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{converted.source.path}: {name} has values up to {np.abs(array).max():g}, beyond "
                f"the {torch.finfo(DTYPES[dtype]).max:g} of {dtype}; convert with --dtype float32 "
                "or bfloat16."
            )
        tensors[name] = tensor
    return tensors


def compare_staged(
    file: Staged, parity: ParityOptions, stage: Stage = silent
) -> tuple[ParityResult, ParityResult | None]:
    """Compare a written file with the checkpoint and, if it was rounded, with its own values.

    Rounding hides small errors, so a file of reduced precision must also agree, within the float32
    tolerance, with the official model with the values as stored. Raises ParityError.
    """
    as_stored = None
    if file.dtype != "float32":
        strict = dataclasses.replace(parity, tolerance=TOLERANCES["float32"])
        as_stored = verify_model(
            file.model, tf_variables(file.model), strict, dtype="float32", stage=stage
        )
        as_stored.raise_for_failure()
    result = verify_model(file.model, file.converted.variables, parity, stage=stage)
    result.raise_for_failure()
    return result, as_stored
