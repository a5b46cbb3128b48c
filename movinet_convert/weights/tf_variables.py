"""Convert the weights of a network to variables of the official TensorFlow model."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from movinet_convert.checkpoint.mapping import links
from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.model import MoViNet


def tf_variables(model: MoViNet) -> dict[str, NDArray[Any]]:
    """The weights by canonical TF name, float32, in TensorFlow's axis order.

    Raises UsageError for a fused network, WeightsError for weights that are not finite.
    """
    state = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        pairs = links(model.variant, model.settings.conv_type, shapes)
    except KeyError:
        raise UsageError(
            "A network without batch normalization cannot be converted to TensorFlow variables; "
            "load it without fuse=True."
        ) from None
    variables: dict[str, NDArray[Any]] = {}
    for link in pairs:
        tensor = state[link.torch].detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(
                f"The tensor {link.torch} has values that are not finite (NaN or infinity); "
                "the training run diverged: export an earlier checkpoint."
            )
        variables[link.tf] = link.to_tf(tensor.numpy())
    return variables
