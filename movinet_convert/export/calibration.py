"""Calibrating int8: clips of a folder of videos, and the inputs that a program sees there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from movinet_convert.errors import UsageError
from movinet_convert.export.step import Program
from movinet_convert.variants import Variant
from movinet_convert.video.decode import VIDEO_SUFFIXES
from movinet_convert.video.frames import Sampling, read_clip

STEPS = 64  # calls of the program, over all clips; every one is held in memory


def calibration_clips(
    folder: str | Path, variant: Variant, size: tuple[int, int] | None = None
) -> list[Tensor]:
    """The beginnings of videos in a folder or the folders in it: clips (1, 3, T, H, W).

    Frames come at the variant's rate and are scaled and cut as it was evaluated, to ``size`` if
    given. Of more than ``STEPS`` videos, evenly spaced ones are taken.

    Raises UsageError where there is no video, VideoError for one that cannot be read.
    """
    found = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise UsageError(
            f"{folder} holds no videos to calibrate with; give a folder with some that look like "
            "what the network will see."
        )
    chosen = found[:: -(-len(found) // STEPS)]
    height, width = size or (variant.input.size,) * 2
    larger = max(height, width)
    # As much is cut off around the picture as in the variant's evaluation.
    resize = larger * variant.input.resize // variant.input.size
    sampling = Sampling(variant.input.fps, resize, larger)
    top, left = (larger - height) // 2, (larger - width) // 2
    clips = (read_clip(path, sampling, max_frames=variant.input.frames) for path in chosen)
    return [clip[None, :, :, top : top + height, left : left + width] for clip in clips]


@torch.no_grad()
def samples(program: Program, clips: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], ...]:
    """Inputs that the program sees over the clips, its states included; at most ``STEPS``."""
    if program.dynamic_frames:
        return tuple((clip,) for clip in clips[:STEPS])
    frames = program.example[0].shape[2]
    found: list[tuple[Tensor, ...]] = []
    for i, clip in enumerate(clips):
        share = (STEPS - len(found)) // (len(clips) - i)
        states = program.example[1:]
        for part in torch.split(clip, frames, dim=2)[: clip.shape[2] // frames][:share]:
            found.append((part, *states))
            _, *after = program.module(*found[-1])
            states = tuple(after)
    return tuple(found)
