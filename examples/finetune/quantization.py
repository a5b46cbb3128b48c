"""Quantization-aware training: the forward pass rounds as ``export --quantize int8`` does.

With the exporter's own functions: weights are rounded to 8 bits per output channel, and the inputs
of all layers but squeeze-excitation and classifier to 8 bits per tensor, over a moving average of
the range that the exporter would choose for each batch. Gradients pass straight through the
rounding. Half of the layers, others in each step, are left float: the exporter chooses which are
8-bit, so the network has to agree with itself for any choice (after QDrop, Wei et al., 2022,
arXiv:2203.05740). Normalisation scales whole output channels, so that weights are rounded the same
before and after it is folded into them; its moving statistics are frozen. The network keeps its
float weights, and is saved and exported as any other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from examples.finetune.step import TrainingModel
from movinet_convert.errors import UsageError
from movinet_convert.export.quantization.fake import Range, layers, quantized_weight, weight_of
from movinet_convert.export.quantization.observation import Observed, watching
from movinet_convert.export.quantization.preparation import keeps_float_input
from movinet_convert.model import StreamState

FLOAT_SHARE = 0.5  # of the layers, in a step
MOMENTUM = 0.01  # of a new batch in the range


class QuantizedTrainingModel(nn.Module):
    """A ``TrainingModel`` whose convolutions and linear layers compute with 8-bit numbers.

    In training mode, a random half of them do, and the ranges of all inputs are learned.
    """

    def __init__(self, plain: TrainingModel) -> None:
        super().__init__()
        if plain.config.half:
            raise UsageError(
                "--qat computes in float32, so that the only rounding is int8's; omit --half."
            )
        self.plain, self.config = plain, plain.config
        self._weights = {path: weight_of(layer) for path, layer in layers(plain).items()}
        rounded = [path for path in self._weights if not keeps_float_input(path)]
        # A ModuleDict's keys have no dots.
        self.ranges = nn.ModuleDict({path.replace(".", "/"): MovingRange() for path in rounded})
        self._watchers: dict[str, Any] = dict(zip(rounded, self.ranges.values(), strict=True))

    def train(self, mode: bool = True) -> QuantizedTrainingModel:
        """Set the mode of all but the normalisations, whose statistics stay as they are."""
        super().train(mode)
        for module in self.plain.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(
        self, frames: Tensor, state: StreamState | None = None
    ) -> tuple[Tensor, StreamState | None]:
        weights = {f"{path}.weight": quantized_weight(w) for path, w in self._weights.items()}
        with watching(self.plain, self._watchers):
            return functional_call(self.plain, weights, (frames, state))


class MovingRange(nn.Module):
    """Rounds a tensor to 8 bits, over a moving average of its range."""

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._learn(x)
            if torch.rand(()) < FLOAT_SHARE:
                return x
        return Range(self.low, self.high).quantize(x)

    @torch.no_grad()
    def _learn(self, x: Tensor) -> None:
        seen = Observed()
        seen.add(x)
        found = seen.range()
        momentum = 1.0 if self.low == self.high else MOMENTUM
        self.low.lerp_(found.low, momentum)
        self.high.lerp_(found.high, momentum)
