"""An exponential moving average of the weights, evaluated and saved in their place.

After ``ExponentialMovingAverage`` in official/modeling/optimization/ema_optimizer.py, with its
defaults: of trainable weights only, so that the moving statistics of normalisations stay those of
the network that trains, and with a decay that grows to its final value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from movinet_convert.errors import UsageError


class WeightAverage:
    """The moving average of the trainable parameters of ``model``; ``update`` after every step.

    After step n, counted from 1, the decay is the smaller of ``decay`` and (1 + n) / (10 + n). The
    average starts from the weights at the beginning; the official one starts from zeros, whose
    share after twenty steps is below 1e-6.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"The decay of the average is at least 0 and below 1, got {decay}.")
        self._decay = decay
        self._steps = 0
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages = {name: p.detach().clone() for name, p in self._trained.items()}

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(list(self._averages.values()), list(self._trained.values()), 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model has the averages while this is open, and then its own weights, bit by bit."""
        own = {name: p.detach().clone() for name, p in self._trained.items()}
        self._assign(self._averages)
        try:
            yield
        finally:
            self._assign(own)

    @torch.no_grad()
    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._trained.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "averages": dict(self._averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = int(state["steps"])
        for name, average in self._averages.items():
            average.copy_(state["averages"][name])
