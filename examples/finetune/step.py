"""The gradients of one batch, of whole clips or by truncated backpropagation through time."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.errors import UsageError
from movinet_convert.model import MoViNet, StreamState


@dataclass(frozen=True)
class StepConfig:
    """The settings of a training step.

    ``chunk``: frames that a stream model reads per call, None for whole clips.
    ``through_time``: gradients flow through the stream state from chunk to chunk; otherwise the
    state is detached after each chunk, so that only one chunk is kept in memory.
    ``half``: autocast to bfloat16.
    """

    chunk: int | None = None
    through_time: bool = False
    half: bool = False
    label_smoothing: float = 0.0

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Of logits (B, classes): cross-entropy with the classes (B,).

        With several labels per video, targets (B, classes) of 0 or 1, it is the mean over classes
        of the binary cross-entropy of their sigmoids, without smoothing, as in the official task.
        """
        if targets.is_floating_point():
            return F.binary_cross_entropy_with_logits(logits.float(), targets)
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)


class TrainingModel(nn.Module):
    """``model`` and ``model.stream`` both as ``forward``, as DistributedDataParallel needs."""

    def __init__(self, model: MoViNet, config: StepConfig) -> None:
        super().__init__()
        if config.chunk is not None and not model.settings.causal:
            raise UsageError(
                f"{model.variant.name} reads whole clips and cannot be trained in chunks; "
                f"use {model.variant.arch}-stream, or omit --chunk."
            )
        self.model = model
        self.config = config

    def forward(
        self, frames: Tensor, state: StreamState | None = None
    ) -> tuple[Tensor, StreamState | None]:
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=self.config.half):
            if self.config.chunk is None:
                return self.model(frames), None
            return self.model.stream(frames, state)


def accumulate_gradients(
    model: nn.Module,
    config: StepConfig,
    clips: Tensor,
    targets: Tensor,
    teacher: TrainingModel | None = None,
) -> Tensor:
    """Add the gradients of one batch to the parameters; returns the loss, averaged over frames.

    ``model`` is a TrainingModel, or DistributedDataParallel around one. With a ``teacher``, the
    loss is the squared distance from its logits, relative to their variance, not that of targets.
    """
    chunks = torch.split(clips, config.chunk or clips.shape[2], dim=2)
    losses: list[Tensor] = []
    state: Any = None
    teacher_state: Any = None
    for i, chunk in enumerate(chunks):
        # Gradients are synchronised once per step, in the backward pass of the last chunk.
        distributed = isinstance(model, nn.parallel.DistributedDataParallel)
        local = distributed and not config.through_time and i < len(chunks) - 1
        with model.no_sync() if local else nullcontext():  # type: ignore[operator]
            logits, state = model(chunk, state)
            if teacher is None:
                loss = config.loss(logits, targets)
            else:
                with torch.no_grad():
                    expected, teacher_state = teacher(chunk, teacher_state)
                loss = F.mse_loss(logits, expected) / expected.var()
            loss = loss * (chunk.shape[2] / clips.shape[2])
            if not config.through_time:
                torch.autograd.backward(loss)
                state = None if state is None else state.detach()
        losses.append(loss)
    total = torch.stack(losses).sum()
    if config.through_time:
        torch.autograd.backward(total)
    return total.detach()


@torch.no_grad()
def log_probabilities(
    model: nn.Module, config: StepConfig, views: Tensor, batch: int, *, multi_label: bool
) -> Tensor:
    """Of every class after the last frame, the mean over the views of a video: (B, classes).

    ``views`` is (B, V, 3, T, H, W), of which ``batch`` clips are computed at a time. Probabilities
    are softmaxes, or sigmoids if ``multi_label``; their mean is taken, and then its logarithm.
    """
    logits = []
    for clips in views.flatten(0, 1).split(batch):
        state = None
        for chunk in torch.split(clips, config.chunk or clips.shape[2], dim=2):
            last, state = model(chunk, state)
        logits.append(last.float())
    scores = torch.cat(logits)
    scores = F.logsigmoid(scores) if multi_label else scores.log_softmax(dim=1)
    return scores.unflatten(0, views.shape[:2]).logsumexp(dim=1) - math.log(views.shape[1])
