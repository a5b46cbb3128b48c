"""The clips that the evidence is taken from: videos and folders of pictures, read as in training.

Needs the extra [video].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from movinet_convert.conversion.gating.statistics import LARGEST_BATCH, SMALLEST_BATCH, longest_clip
from movinet_convert.errors import UsageError
from movinet_convert.model.transforms import MAX_VALUE
from movinet_convert.variants import Variant
from movinet_convert.video.decoding import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from movinet_convert.video.frames import Sampling, read_clip

FEWEST, MOST = 2 * SMALLEST_BATCH, LARGEST_BATCH  # clips


@dataclass(frozen=True)
class ClipFormat:
    """``frames`` frames at ``fps`` a second, ``size`` pixels square; None as the variant expects.

    The shorter side is scaled so that as much is cut off around the picture as in the variant's
    evaluation.
    """

    frames: int | None = None
    size: int | None = None
    fps: float | None = None


def read_clips(folder: Path, variant: Variant, form: ClipFormat | None = None) -> Tensor:
    """The beginnings of the videos in a folder, (N, 3, T, size, size), uint8, in random order."""
    form = form or ClipFormat()
    found = _videos(folder)
    if len(found) < FEWEST:
        raise UsageError(
            f"{folder} holds {len(found)} videos, and telling the gate takes at least {FEWEST}, "
            f"better {MOST}, of the kind that the network was trained on; a video is a file such "
            "as a.mp4, or a folder of pictures."
        )
    size = form.size or variant.input.size
    frames = _frames(variant, form, size)
    resize = size * variant.input.resize // variant.input.size
    sampling = Sampling(form.fps or variant.input.fps, resize, size)
    clips = []
    for path in found[:: -(-len(found) // MOST)]:
        clip = read_clip(path, sampling, max_frames=frames)
        # A video that is too short begins again, as in training.
        clip = clip[:, torch.arange(frames) % clip.shape[1]]
        clips.append((clip * MAX_VALUE).round().to(torch.uint8))
    # A batch of one class alone would have other statistics than those of training.
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0))
    return torch.stack(clips)[order]


def _frames(variant: Variant, form: ClipFormat, size: int) -> int:
    """As many as asked for, or as the variant expects and memory allows."""
    most = longest_clip(variant, size)
    if most < (form.frames or 1):
        raise UsageError(
            f"Batches of {SMALLEST_BATCH} clips of {form.frames or 1} frames, {size} x {size} "
            f"pixels, take too much memory; at this size the gate is told with at most {most} "
            "frames."
        )
    return form.frames or min(variant.input.frames, most)


def _videos(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}; give one with videos.")
    files = [path for path in folder.rglob("*") if path.is_file()]
    videos = {path for path in files if path.suffix.lower() in VIDEO_SUFFIXES}
    pictures = {path.parent for path in files if path.suffix.lower() in PICTURE_SUFFIXES}
    # Pictures that lie beside videos are previews of them.
    return sorted(videos | (pictures - {path.parent for path in videos}))
