"""Save a network, such as a finetuned one, in the format of converted weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from movinet_convert.errors import UsageError
from movinet_convert.files.writing import replacing
from movinet_convert.model import MoViNet
from movinet_convert.model.create import tensor_shapes
from movinet_convert.weights.file import write_weights
from movinet_convert.weights.header import Header
from movinet_convert.weights.labels import Labels, given_names
from movinet_convert.weights.naming import SUFFIX


def save_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    labels: Labels | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a network so that ``load_converted(path)`` restores it; returns the path.

    The file contains variant, settings, class count and, if known, the class names: ``labels``, or
    a file with one per line, by default ``model.labels``. A network wrapped by ``torch.compile`` or
    ``DistributedDataParallel`` is saved without the wrapper. ``tensors`` are those of the network
    where they were gathered from several processes. The write is atomic.

    Raises UsageError for a fused network, a name that does not end in ``.safetensors``, or a number
    of labels other than the number of classes.
    """
    network = unwrap(model)
    target = Path(path)
    if target.suffix != SUFFIX:
        raise UsageError(f"{target} must end in {SUFFIX}, as load_converted requires.")
    chosen = network.labels if labels is None else labels
    names = given_names(chosen, network.num_classes)
    tensors = network.state_dict() if tensors is None else tensors
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    expected = tensor_shapes(network.variant, network.settings, network.num_classes)
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
        raise UsageError("A fused or modified network cannot be saved; load it without fuse=True.")
    header = Header.of_model(network, labels=names)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        write_weights(temporary, tensors, header)
    return target


def unwrap(model: nn.Module) -> MoViNet:
    """The network inside ``torch.compile`` and ``DistributedDataParallel``; UsageError if none."""
    inner: object = model
    while isinstance(inner, nn.Module):
        if isinstance(inner, MoViNet):
            return inner
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
    raise UsageError(f"A {type(model).__name__} is neither a MoViNet nor a wrapper of one.")
