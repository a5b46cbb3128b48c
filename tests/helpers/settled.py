"""Networks that behave like trained ones, for tests that measure rounding.

With random weights and initial moving statistics, rounding errors grow from block to block until
they dominate the logits. Statistics measured on a clip keep all activations in range.
"""

import torch

from movinet_convert.model import MoViNet, create_model
from movinet_convert.model.block import Block
from movinet_convert.model.layers import BatchNorm


def settled_model(
    name: str, *, gating: str | None = None, size: int = 64, num_classes: int = 10
) -> MoViNet:
    torch.manual_seed(0)
    model = create_model(name, gating=gating, num_classes=num_classes)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("scale"):
                parameter.fill_(0.05 if "encoding" in parameter_name else 0.5)
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.momentum = 1.0
            if isinstance(module, Block):
                module.drop_rate = 0.0
        model.train()
        model(torch.rand(2, 3, 6, size, size))
    return model.eval()
