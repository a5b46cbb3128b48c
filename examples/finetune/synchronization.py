"""Batch normalisation with the statistics of all processes' batches together, on CPUs too.

PyTorch's own SyncBatchNorm runs on GPUs only, and updates its moving variance by another formula
than Keras.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from movinet_convert.model.layers import BatchNorm
from movinet_convert.video.processes import Group


class SynchronizedBatchNorm(BatchNorm):
    """A BatchNorm that normalises over the batches of all processes of ``group`` in training."""

    def __init__(self, norm: BatchNorm, group: Group) -> None:
        super().__init__(norm.num_features, unbiased=norm.unbiased)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self._group = group
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean, variance, count = self._statistics(x.float())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shape = (1, -1, *[1] * (x.dim() - 2))
        shift = (self.bias - mean * scale).view(shape)
        y = torch.addcmul(shift, x.float(), scale.view(shape)).to(x.dtype)
        with torch.no_grad():
            if self.unbiased:
                variance = variance * (count / (count - 1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        return y

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (C,), biased variance (C,) and number of values of a channel, of all processes."""
        variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        own = torch.cat([mean, variance, mean.new_tensor([x.numel() // x.shape[1]])])
        # Each process fills one row, so that the sum has the rows of all.
        nothing = torch.zeros_like(own)
        rows = [own if rank == self._group.rank else nothing for rank in range(self._group.size)]
        every = _Sum.apply(torch.stack(rows))
        means, variances, counts = every.split([x.shape[1], x.shape[1], 1], dim=1)
        count = counts.sum()
        share = counts / count
        mean = (share * means).sum(0)
        return mean, (share * (variances + (means - mean).square())).sum(0), count


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def synchronize(model: nn.Module, group: Group) -> None:
    """Replace every BatchNorm in ``model``, with the same parameters, statistics and names."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is BatchNorm:
                setattr(module, name, SynchronizedBatchNorm(child, group))
