"""Compare a converted file with the official TensorFlow model."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from movinet_convert.conversion.sources import given
from movinet_convert.conversion.tensors import Converted, convert_checkpoint
from movinet_convert.errors import WeightsError
from movinet_convert.model import MoViNet
from movinet_convert.parity.comparison import Stage, silent, verify_model
from movinet_convert.parity.options import DEFAULT_PARITY, ParityOptions
from movinet_convert.parity.result import ParityResult
from movinet_convert.weights.load import load_file, locate
from movinet_convert.weights.tf_variables import tf_variables


def verify(
    name: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    version: int | None = None,
    parity: ParityOptions = DEFAULT_PARITY,
    stage: Stage = silent,
) -> ParityResult:
    """Compare a converted variant, or a file, with the official TensorFlow model.

    Without ``checkpoint`` the official model gets the file's own tensors, mapped back to
    TensorFlow: this verifies the network. With ``checkpoint``, the file must have exactly its
    values, rounded to the file's dtype, and the official model gets the checkpoint's values.
    ``stage`` is called with each step, such as "this network, case 2 of 7: batch".

    Raises as ``load_converted``, WeightsError if the file does not have the checkpoint's values,
    and MissingExtraError without the extra [tf].
    """
    file = locate(name, weights_dir=weights_dir, version=version)
    model = load_file(file)
    if checkpoint is None:
        # Both have the same values, rounded or not: the tolerance is that of float32.
        return verify_model(model, tf_variables(model), parity, dtype="float32", stage=stage)
    stage("reading the checkpoint")
    converted = _convert_as(model, checkpoint)
    _check_values(file.path, model, converted)
    return verify_model(model, converted.variables, parity, stage=stage)


def _convert_as(model: MoViNet, checkpoint: str | os.PathLike[str]) -> Converted:
    """A checkpoint converted with the settings of ``model``."""
    settings = model.settings
    return convert_checkpoint(
        given(checkpoint),
        name=model.variant.name,
        gating=settings.gating if settings.causal else None,
        legacy=settings.legacy,
        head_activation=settings.head_activation,
        num_classes=model.num_classes,
    )


def _check_values(file: Path, model: MoViNet, converted: Converted) -> None:
    for name, tensor in model.state_dict().items():
        array = torch.from_numpy(converted.tensors[name])
        if not torch.equal(array.to(tensor.dtype), tensor):
            raise WeightsError(
                f"{file} was not converted from {converted.source.path}: its {name} differs by up "
                f"to {(array - tensor.float()).abs().max().item():.2g}; pass the checkpoint that "
                "it was converted from, or convert this one."
            )
