"""Infer the settings of a network from the names and shapes of its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from movinet_convert.checkpoint import Checkpoint
from movinet_convert.checkpoint.canonical import CLASSIFIER
from movinet_convert.errors import CheckpointError
from movinet_convert.variants import ARCHS, Activation, ConvType, Gating, SeType


@dataclass(frozen=True)
class Structure:
    """The settings that names and shapes determine.

    ``causal`` is None if the weights fit two networks: a base model and a causal one with 3D
    convolutions (the older "legacy" stream models) have the same variables in A0 to A2.
    ``classes`` is None for a backbone without classifier. Only a graph determines ``gating`` and
    ``head_activation``.
    """

    arch: str
    conv_type: ConvType
    se_type: SeType
    positional_encoding: bool
    classes: int | None
    causal: bool | None
    gating: Gating | None = None
    head_activation: Activation | None = None

    @property
    def may_be_base(self) -> bool:
        return self.causal is not True

    @property
    def may_be_legacy(self) -> bool:
        """Whether it may be a causal model with 3D convolutions."""
        return self.conv_type == "3d" and self.causal is not False


def read_structure(checkpoint: Checkpoint) -> Structure:
    """Infer the settings of ``checkpoint`` without reading its arrays."""
    conv_type: ConvType = (
        "2plus1d" if any("/_conv/_conv/" in name for name in checkpoint.variables) else "3d"
    )
    se_type = _se_type(checkpoint, "_conv/_conv" if conv_type == "2plus1d" else "_conv")
    encoded = any("/_pos_encoding/" in name for name in checkpoint.variables)
    # A base model has no streaming context: neither the second half of the squeeze-excitation's
    # input nor a positional encoding.
    causal = True if conv_type == "2plus1d" or se_type == "2plus3d" or encoded else None
    classes = _classes(checkpoint)
    found = Structure(checkpoint.arch, conv_type, se_type, encoded, classes, causal)
    return replace(found, **asdict(checkpoint.graph)) if checkpoint.graph else found


def _se_type(checkpoint: Checkpoint, conv: str) -> SeType:
    """The type of squeeze-excitation; ``2plus3d`` has twice as many inputs as it scales."""
    block = ARCHS[checkpoint.arch].blocks[0]
    name = f"{block.name}/_attention/_se_reduce/{conv}/kernel"
    if name not in checkpoint.variables:
        raise CheckpointError(f"{checkpoint.source} has no variable {name!r}; it is incomplete.")
    shape = checkpoint.variables.shape(name)
    read = shape[-2] if len(shape) >= 2 else 0
    if read == block.expanded:
        return "3d"
    if read == 2 * block.expanded:
        return "2plus3d"
    raise CheckpointError(
        f"{checkpoint.source}: variable {name!r} has shape {shape}; in a MoViNet "
        f"{checkpoint.arch} it has {block.expanded} or {2 * block.expanded} input channels."
    )


def _classes(checkpoint: Checkpoint) -> int | None:
    biases = [
        name
        for name in checkpoint.variables
        if name.startswith(f"{CLASSIFIER}/_classifier/") and name.endswith("/bias")
    ]
    if not biases:
        return None
    shape = checkpoint.variables.shape(biases[0])
    if len(shape) != 1 or not shape[0]:
        raise CheckpointError(
            f"{checkpoint.source}: variable {biases[0]!r} has shape {shape}; expected one value "
            "per class."
        )
    return shape[0]
