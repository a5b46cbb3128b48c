"""One training step, for whole clips and for videos in pieces."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.errors import UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from movinet_convert.model import MoViNet, StreamState


@dataclass(frozen=True)
class Recipe:
    """How a step is taken.

    ``piece``: frames of a sub-clip that the stream is fed with, None for whole clips.
    ``through_time``: gradients flow through the state from piece to piece; otherwise each piece
    is learnt from by itself and the state is detached, which takes the memory of one piece.
    ``half``: autocast to bfloat16.
    """

    piece: int | None = None
    through_time: bool = False
    half: bool = False
    label_smoothing: float = 0.0


class Learner(nn.Module):
    """The network with ``stream`` reachable through ``forward``.

    ``DistributedDataParallel`` sees only ``forward``.
    """

    def __init__(self, model: MoViNet, recipe: Recipe) -> None:
        super().__init__()
        if recipe.piece is not None and not model.settings.causal:
            raise UsageError(
                f"{model.variant.name} reads whole clips and cannot learn from pieces; "
                f"use {model.variant.arch}-stream, or leave the pieces out."
            )
        self.model = model
        self.recipe = recipe

    def forward(
        self, frames: Tensor, state: StreamState | None = None
    ) -> tuple[Tensor, StreamState | None]:
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=self.recipe.half):
            if self.recipe.piece is None:
                return self.model(frames), None
            return self.model.stream(frames, state)


def learn(learner: nn.Module, recipe: Recipe, clip: Tensor, labels: Tensor) -> Tensor:
    """Add the gradients of one batch to the parameters; returns the mean loss of its pieces."""
    pieces = torch.split(clip, recipe.piece or clip.shape[2], dim=2)
    losses: list[Tensor] = []
    state: Any = None
    for i, piece in enumerate(pieces):
        last = i == len(pieces) - 1
        with nullcontext() if last or recipe.through_time else _alone(learner):
            logits, state = learner(piece, state)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
            loss = loss * (piece.shape[2] / clip.shape[2])
            if not recipe.through_time:
                torch.autograd.backward(loss)
                state = None if state is None else state.detach()
        losses.append(loss)
    total = torch.stack(losses).sum()
    if recipe.through_time:
        torch.autograd.backward(total)
    return total.detach()


def _alone(learner: nn.Module) -> AbstractContextManager[None]:
    """Between processes gradients are shared once a step, with the last piece."""
    if isinstance(learner, nn.parallel.DistributedDataParallel):
        return learner.no_sync()
    return nullcontext()


@torch.no_grad()
def judge(learner: Learner, clip: Tensor, labels: Tensor) -> tuple[int, float]:
    """How many clips are recognised after their last frame, and the sum of their losses."""
    state = None
    for piece in torch.split(clip, learner.recipe.piece or clip.shape[2], dim=2):
        logits, state = learner(piece, state)
    right = int((logits.argmax(dim=1) == labels).sum())
    return right, float(F.cross_entropy(logits.float(), labels, reduction="sum"))
