"""Mistakes in the positional encoding of A3, A4 and A5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from movinet_convert.model.positions import FramePositions
from scripts.mutations.mistake import Mistake, become, original

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from movinet_convert.model import MoViNet

WITH_ENCODING = ("a3-stream",)


def encoded(
    encode: Callable[[FramePositions, int, torch.dtype], Tensor],
) -> Callable[[MoViNet], None]:
    """Another positional encoding (B, T, width)."""
    kind = type("WrongEncoding", (FramePositions,), {"encoding": encode})

    def to_frames(self: Any, clip: Tensor, seen: Tensor | None) -> Any:
        flat, timeline = original(self)._to_frames(self, clip, seen)
        return flat, kind(timeline.batch, timeline.frames, timeline.seen)

    return lambda model: become(model, _to_frames=to_frames)


def waves(positions: Tensor, width: int, longest: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Sines of the even angles and cosines of the odd ones, of positions (B, T)."""
    channels = torch.arange(width)
    rates = 1.0 / longest ** ((2 * (channels // 2)).double() / width)
    radians = positions[..., None].double() * rates
    return radians[..., 0::2].sin(), radians[..., 1::2].cos()


def positions(timeline: FramePositions) -> Tensor:
    return timeline.counts() - 1


def interleaved(timeline: FramePositions, width: int, dtype: torch.dtype) -> Tensor:
    return torch.stack(waves(positions(timeline), width), -1).flatten(-2).to(dtype)


def joined(
    moved: Callable[[FramePositions], Tensor], longest: float = 10_000.0
) -> Callable[[FramePositions, int, torch.dtype], Tensor]:
    return lambda timeline, width, dtype: torch.cat(waves(moved(timeline), width, longest), -1).to(
        dtype
    )


def cosines_first(timeline: FramePositions, width: int, dtype: torch.dtype) -> Tensor:
    sines, cosines = waves(positions(timeline), width)
    return torch.cat((cosines, sines), -1).to(dtype)


def steps(timeline: FramePositions) -> Tensor:
    return torch.arange(timeline.frames).expand(timeline.batch, -1)


def unscaled(model: MoViNet) -> None:
    for block in model.blocks.values():
        block.attention.encoding_scale.fill_(1.0)  # type: ignore[union-attr, operator]


ENCODING_MISTAKES = (
    Mistake(
        "positional encoding with sines and cosines interleaved",
        WITH_ENCODING,
        encoded(interleaved),
    ),
    Mistake(
        "positional encoding missing",
        WITH_ENCODING,
        encoded(lambda timeline, width, dtype: torch.zeros(1, 1, width, dtype=dtype)),
    ),
    Mistake(
        "positional encoding off by one frame",
        WITH_ENCODING,
        encoded(joined(lambda timeline: positions(timeline) + 1)),
    ),
    Mistake("positional encoding restarted every call", WITH_ENCODING, encoded(joined(steps))),
    Mistake(
        "positional encoding of the chunk's first frame",
        WITH_ENCODING,
        encoded(joined(lambda timeline: positions(timeline)[:, :1].expand(-1, timeline.frames))),
    ),
    Mistake("positional encoding cosines first", WITH_ENCODING, encoded(cosines_first)),
    Mistake(
        "positional encoding with another wavelength",
        WITH_ENCODING,
        encoded(joined(positions, longest=1000.0)),
    ),
    Mistake("positional encoding unscaled", WITH_ENCODING, unscaled),
)
