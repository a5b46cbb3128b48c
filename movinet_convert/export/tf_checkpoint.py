"""A network as a TensorFlow checkpoint in the layout of the releases, without TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from movinet_convert.checkpoint.write import write_checkpoint
from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.export.outputs import explained, folder_name
from movinet_convert.mapping import links

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from movinet_convert.model import MoViNet


def export_checkpoint(model: MoViNet, folder: Path) -> Path:
    """Write ``checkpoint``, ``ckpt-1.index`` and its data into ``folder``; returns the prefix.

    ``tf.train.Checkpoint(model=official_model).restore(prefix)`` finds every variable, and what
    was converted from TensorFlow goes back bit by bit. Raises UsageError for a folder that holds
    other files or a fused network, WeightsError for weights that are not finite, ExportError where
    the disk does not take them.
    """
    variables = tf_variables(model)
    with explained(folder, "tf-checkpoint", OSError):
        return write_checkpoint(folder_name(folder, "tf-checkpoint"), model.variant.arch, variables)


def tf_variables(model: MoViNet) -> dict[str, NDArray[Any]]:
    """The weights by canonical TF name, float32, in TensorFlow's axes."""
    state = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        pairs = links(model.variant, model.settings.conv_type, shapes)
    except KeyError:
        raise UsageError(
            "Only a network with its batch normalisations can become a TensorFlow checkpoint; "
            "load it without fuse=True."
        ) from None
    variables: dict[str, NDArray[Any]] = {}
    for link in pairs:
        tensor = state[link.torch].detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(
                f"The tensor {link.torch} holds values that are not finite (NaN or infinity); "
                "the training run diverged: export an earlier checkpoint."
            )
        variables[link.tf] = link.to_tf(tensor.numpy())
    return variables
