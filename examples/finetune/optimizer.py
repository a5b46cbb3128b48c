"""The optimizer, its learning rate and the clipping of gradients.

Source: optimizer_config of the configurations in official/projects/movinet/configs/yaml/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS = ("adamw", "rmsprop", "sgd")
MOMENTUM, RHO, EPSILON = 0.9, 0.9, 1.0  # of the official RMSprop


@dataclass(frozen=True)
class OptimizerConfig:
    """``name`` is one of OPTIMIZERS; weight decay applies to kernels only.

    AdamW's weight decay is decoupled; that of the others is an L2 loss, half of it times the sum of
    squares, whose gradient is clipped with the rest, as in Keras. ``clip_norm`` bounds the norm of
    all gradients together, ``clip_tensor_norm`` that of each parameter's, as Keras' ``clipnorm``.
    The learning rate grows linearly over ``warmup`` steps to ``learning_rate``, and then falls as
    half a cosine wave.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    warmup: int = 20
    weight_decay: float = 1e-4
    clip_norm: float | None = None
    clip_tensor_norm: float | None = None

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Of step number ``step``, from 0, of ``steps``."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class Updates:
    """Updates the trainable parameters of ``model`` from their gradients."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self._config = config
        trained = [p for p in model.parameters() if p.requires_grad]
        self._kernels = [p for p in trained if p.dim() > 1]
        others = [p for p in trained if p.dim() <= 1]
        self._trained = trained
        if config.name == "adamw":
            groups = [
                {"params": self._kernels, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ]
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups)
        elif config.name == "rmsprop":
            self.optimizer = RMSprop([self._kernels, others])
        else:
            self.optimizer = torch.optim.SGD(
                [{"params": self._kernels}, {"params": others}], momentum=MOMENTUM, nesterov=True
            )

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update with the gradients, which are reset."""
        config = self._config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if config.name != "adamw" and config.weight_decay:
            for kernel in self._kernels:
                if kernel.grad is not None:
                    kernel.grad.add_(kernel, alpha=config.weight_decay)
        if config.clip_tensor_norm is not None:
            for parameter in self._trained:
                nn.utils.clip_grad_norm_(parameter, config.clip_tensor_norm)
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._trained, config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class RMSprop(torch.optim.Optimizer):
    """RMSprop with momentum as TensorFlow computes it.

    Unlike in ``torch.optim.RMSprop``, epsilon is added to the mean square before its root is taken,
    which for the official epsilon of 1 is another algorithm, and the momentum accumulates steps
    that are already multiplied by the learning rate.
    """

    def __init__(self, groups: Iterable[Iterable[Tensor]]) -> None:
        super().__init__([{"params": list(group)} for group in groups], {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean_square"] = torch.zeros_like(parameter)
                    state["momentum"] = torch.zeros_like(parameter)
                gradient = parameter.grad
                state["mean_square"].lerp_(gradient.square(), 1 - RHO)
                root = (state["mean_square"] + EPSILON).sqrt_()
                state["momentum"].mul_(MOMENTUM).addcdiv_(gradient, root, value=group["lr"])
                parameter.sub_(state["momentum"])
