"""Networks with synthetic weights, for tests of the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from movinet_convert import mapping
from movinet_convert.model.create import create_model, tensor_shapes
from movinet_convert.parity.synthetic import synthetic_variables
from movinet_convert.variants import get_variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from movinet_convert.model import MoViNet
    from movinet_convert.variants import Gating


def variable_shapes(name: str, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Shape of every TensorFlow variable of a variant, by canonical path."""
    return {link.tf: link.tf_shape for link in _links(name, num_classes)}


def synthetic_model(
    name: str, *, num_classes: int = 600, seed: int = 0, gating: Gating | None = None
) -> tuple[MoViNet, dict[str, NDArray[np.float32]]]:
    """A network with converted synthetic weights, and the variables they come from."""
    variant = get_variant(name)
    variables = synthetic_variables(variant, variable_shapes(name, num_classes), seed=seed)
    model = create_model(name, num_classes=num_classes, gating=gating).eval()
    tensors = mapping.map_variables(variables, _links(name, num_classes), name)
    model.load_state_dict({key: torch.from_numpy(array) for key, array in tensors.items()})
    return model, variables


def _links(name: str, num_classes: int) -> Any:
    variant = get_variant(name)
    settings = variant.settings()
    shapes = tensor_shapes(variant, settings, num_classes)
    return mapping.links(variant, settings.conv_type, shapes)
