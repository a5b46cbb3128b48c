"""Calibration of int8: clips from a folder of videos, and the program's inputs for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from movinet_convert.errors import UsageError
from movinet_convert.export.step import Program
from movinet_convert.variants import Variant
from movinet_convert.video.clips import find_videos, read_beginnings

STEPS = 64  # calls of the program, over all clips; their inputs are kept in memory
HELD_OUT = 4  # one in so many calibration clips is held out for the check
MOST_HELD_OUT, LONGEST_HELD_OUT = 16, 50  # clips, and frames of each


def calibration_clips(
    folder: str | Path, variant: Variant, size: tuple[int, int] | None = None
) -> list[Tensor]:
    """The first frames of the videos in a folder and its subfolders: clips (1, 3, T, H, W).

    Frames are sampled and cropped as for the variant's evaluation, to ``size`` if given. Of more
    than ``STEPS`` videos, evenly spaced ones are used.

    Raises UsageError if there is no video, VideoError for one that cannot be read.
    """
    videos = find_videos(Path(folder))
    if not videos:
        raise UsageError(
            f"{folder} has no videos to calibrate with; name a folder of videos like those the "
            "network will be used on."
        )
    size = size or (variant.input.size,) * 2
    clips = read_beginnings(videos, variant, size, variant.input.frames, most=STEPS)
    return [clip[None] for clip in clips]


def split(program: Program, clips: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Clips to calibrate with and clips to check with; these are held out if there are enough.

    Raises UsageError for no clips, clips of another size, and clips shorter than one call.
    """
    if not clips or any(clip.shape[-2:] != program.size for clip in clips):
        height, width = program.size
        raise UsageError(
            f"int8 needs calibration clips of the size that is exported, {height}x{width}; "
            "give some."
        )
    frames = 1 if program.dynamic_frames else program.frames
    # A call takes a batch, which each clip fills.
    long_enough = [
        clip.expand(program.batch, -1, -1, -1, -1) for clip in clips if clip.shape[2] >= frames
    ]
    if not long_enough:
        raise UsageError(f"No calibration clip is as long as one call, {frames} frames.")
    held_out = [
        clip[:, :, : max(frames, LONGEST_HELD_OUT)]
        for clip in long_enough[::HELD_OUT][:MOST_HELD_OUT]
    ]
    if len(long_enough) >= HELD_OUT:
        long_enough = [clip for i, clip in enumerate(long_enough) if i % HELD_OUT]
    return long_enough, held_out


@torch.no_grad()
def samples(program: Program, clips: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Inputs of the program over the clips, its states included; at most ``STEPS``."""
    if program.dynamic_frames:
        return [(clip,) for clip in clips[:STEPS]]
    found: list[tuple[Tensor, ...]] = []
    for i, clip in enumerate(clips):
        share = (STEPS - len(found)) // (len(clips) - i)
        states = program.example[1:]
        calls = min(share, clip.shape[2] // program.frames)
        for chunk in torch.split(clip, program.frames, dim=2)[:calls]:
            found.append((chunk, *states))
            _, *after = program.module(*found[-1])
            states = tuple(after)
    return found
