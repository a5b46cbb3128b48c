"""Is a converted file right? Compare it with the official model, TensorFlow and all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.conversion.pipeline import convert_checkpoint
from movinet_convert.conversion.recognition import recognise
from movinet_convert.conversion.sources import given
from movinet_convert.errors import WeightsError
from movinet_convert.model import MoViNet
from movinet_convert.parity.comparison import verify_model
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
) -> ParityResult:
    """Compare a converted variant, or a file, with the official TensorFlow model.

    Without a ``checkpoint`` the official model holds the file's own tensors, which go back through
    the mapping table: that proves the network. With one, the file must hold exactly its values in
    the file's type, and the official model holds the checkpoint's.

    Raises as ``load_converted`` does, WeightsError where the file holds other values than the
    checkpoint, and MissingExtraError without the extra [tf].
    """
    located = locate(name, weights_dir=weights_dir, version=version)
    model = load_file(located)
    if checkpoint is not None:
        variables = _variables_of(checkpoint, located.path, model)
        return verify_model(model, variables, parity)
    # Both hold the same values, rounded or not, so rounding is no excuse.
    return verify_model(model, tf_variables(model), parity, dtype="float32")


def _variables_of(
    checkpoint: str | os.PathLike[str], file: Path, model: MoViNet
) -> Mapping[str, NDArray[Any]]:
    """The variables that a file was made from, once its tensors have been compared with them."""
    settings = model.settings
    opened = open_checkpoint(given(checkpoint).path)
    found = recognise(
        opened,
        given(checkpoint),
        name=model.variant.name,
        gating=settings.gating if settings.causal else None,
        legacy=settings.legacy,
        head_activation=settings.head_activation,
    )
    drawn = model.num_classes if found.num_classes is None else None
    converted = convert_checkpoint(opened, found, drawn)
    for name, tensor in model.state_dict().items():
        array = torch.from_numpy(converted.tensors[name])
        if not torch.equal(array.to(tensor.dtype), tensor):
            raise WeightsError(
                f"{file} was not made from {checkpoint}: its {name} differs by up to "
                f"{(array - tensor.float()).abs().max().item():.2g}; name the checkpoint that it "
                "was made from, or convert this one."
            )
    return converted.variables
