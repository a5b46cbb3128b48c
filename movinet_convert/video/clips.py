"""Clips from a folder of videos, for calibration and statistics. Needs the extra [video]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from movinet_convert.conversion.gating.statistics import LARGEST_BATCH, SMALLEST_BATCH, longest_clip
from movinet_convert.errors import UsageError
from movinet_convert.model.transforms import MAX_VALUE
from movinet_convert.variants import Variant
from movinet_convert.video.decode import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from movinet_convert.video.frames import Sampling, read_clip

MIN_CLIPS, MAX_CLIPS = 2 * SMALLEST_BATCH, LARGEST_BATCH  # of the gating statistics


def find_videos(folder: Path) -> list[Path]:
    """The video files in a folder and its subfolders, and the folders of images, sorted.

    Images next to videos are assumed to be previews and ignored, and so is what is hidden.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}; name a folder of videos.")
    files = [path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder)]
    videos = {path for path in files if path.suffix.lower() in VIDEO_SUFFIXES}
    images = {path.parent for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    return sorted(videos | (images - {path.parent for path in videos}))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def read_beginnings(
    videos: Sequence[Path],
    variant: Variant,
    size: tuple[int, int],
    frames: int,
    *,
    fps: float | None = None,
    most: int,
) -> Iterator[Tensor]:
    """The first ``frames`` frames of at most ``most`` evenly spaced videos: clips (3, T, H, W).

    They are scaled and cropped in the proportions of the variant's evaluation; ``fps`` overrides
    the variant's frame rate. Raises VideoError for a video that cannot be read.
    """
    sampling = Sampling.of(variant, fps, size)
    for path in videos[:: -(-len(videos) // most)]:
        yield read_clip(path, sampling, max_frames=frames)


@dataclass(frozen=True)
class ClipFormat:
    """``frames`` frames at ``fps``, ``size`` pixels square; None is the variant's own value."""

    frames: int | None = None
    size: int | None = None
    fps: float | None = None


def read_clips(folder: Path, variant: Variant, form: ClipFormat | None = None) -> Tensor:
    """The first frames of the videos in a folder, (N, 3, T, size, size) uint8, in random order."""
    form = form or ClipFormat()
    videos = find_videos(folder)
    if len(videos) < MIN_CLIPS:
        raise UsageError(
            f"{folder} has {len(videos)} videos; detecting the gating needs at least {MIN_CLIPS}, "
            f"better {MAX_CLIPS}, like those the network was trained on. A video is a file such as "
            "a.mp4, or a folder of images."
        )
    size = form.size or variant.input.size
    longest = longest_clip(variant, size)
    if longest < (form.frames or 1):
        raise UsageError(
            f"Batches of {SMALLEST_BATCH} clips of {form.frames or 1} frames, {size} x {size} "
            f"pixels, take too much memory; at this size give at most {longest} frames."
        )
    frames = form.frames or min(variant.input.frames, longest)
    clips = [
        # A shorter video is repeated, as in training.
        (clip[:, torch.arange(frames) % clip.shape[1]] * MAX_VALUE).round().to(torch.uint8)
        for clip in read_beginnings(
            videos, variant, (size, size), frames, fps=form.fps, most=MAX_CLIPS
        )
    ]
    # Batches of a single class would have different statistics from those in training.
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0))
    return torch.stack(clips)[order]
