"""Read videos as frames and clips at a constant frame rate, scaled and cropped.

Needs the extra [video]. FFmpeg (through PyAV) decodes; frames between two sampled ones are decoded,
since others depend on them, but never converted or scaled.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from movinet_convert.errors import UsageError, VideoError
from movinet_convert.model.transforms import MAX_VALUE, ClipTransform
from movinet_convert.variants import Variant
from movinet_convert.video.decode import (
    FALLBACK_FPS,
    Timed,
    declared_seconds,
    decoded,
    frame_rate,
    image_files,
    import_av,
    is_live,
    read_images,
)
from movinet_convert.video.pixels import Image, to_image

FPS_DENOMINATOR = 1001  # 30000/1001 is the finest rate in use
MIN_FPS, MAX_FPS = 0.001, 1000.0
MAX_CLIP_FRAMES = 10_000  # of one clip in memory


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are read, and how they are scaled and cropped; None: unchanged.

    ``fps`` frames per second, the shorter side scaled to ``resize`` pixels, then a center crop of
    ``size`` x ``size`` pixels, or (height, width). Raises UsageError for a frame rate outside 0.001
    to 1000.
    """

    fps: float | None = None
    resize: int | None = None
    size: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.fps is not None:
            as_rate(self.fps)

    @staticmethod
    def of(
        variant: Variant, fps: float | None = None, size: tuple[int, int] | None = None
    ) -> Sampling:
        """As in the variant's evaluation; ``fps`` replaces its frame rate, ``size`` its size."""
        transform = ClipTransform.of(variant, size)
        return Sampling(variant.input.fps if fps is None else fps, transform.resize, transform.size)


@dataclass(frozen=True)
class Frame:
    """An image (H, W, 3), RGB, and its time in seconds from the start of the video."""

    time: float
    image: Image


def read_frames(
    source: str | os.PathLike[str],
    sampling: Sampling,
    *,
    image_fps: float | None = None,
    threads: int = 0,
) -> Iterator[Frame]:
    """Iterate over the frames of a video of any length at a constant frame rate.

    ``source`` is a file, a URL that FFmpeg can open (``rtsp://…``), ``camera`` or ``camera:N``, or
    a folder of images in the order of their names, ``image_fps`` per second (the sampling's
    rate if None). Frame k is the one shown at k / fps; repeated frames share one image.
    ``threads`` are FFmpeg's, 0 to let it choose.

    Raises VideoError if the source cannot be read, is cut off, ends before its declared duration
    or exceeds the limits of ``decode``.
    """
    shown = _sampled(source, sampling, image_fps, threads)
    for time, image in _images(shown, sampling, source):
        yield Frame(float(time), image)


def read_clip(
    source: str | os.PathLike[str],
    sampling: Sampling,
    *,
    max_frames: int | None = None,
    threads: int = 0,
) -> Tensor:
    """A video as one clip (3, T, H, W), float32, RGB in [0, 1]; at most ``max_frames``."""
    return to_tensor(list(islice(read_frames(source, sampling, threads=threads), max_frames)))


def read_middle(
    source: str | os.PathLike[str], sampling: Sampling, length: int, *, threads: int = 0
) -> list[Frame]:
    """``length`` frames from the middle of a video; a shorter one is repeated.

    As ``sample_sequence`` in official/vision/ops/preprocess_ops_3d.py, of which the stride is the
    video's frame rate over the sampling's: the first frame is a whole number of the video's frames
    from its start, and a repetition goes on with the same distance. All of the video is decoded,
    twice if the duration that it declares is wrong.

    Raises VideoError as ``read_frames`` does and for a live source, UsageError for a ``length``
    that is not from 1 to MAX_CLIP_FRAMES.
    """
    check_length(length)
    if is_live(source):
        raise VideoError(f"{source} is live and has no middle; name a file.")
    declared, own_rate = _declared(source, sampling)
    rate = own_rate if sampling.fps is None else as_rate(sampling.fps)

    end = Fraction(0)

    def timed() -> Iterator[Timed]:
        nonlocal end
        for item in _decoded(source, sampling, None, threads):
            end = item[1]
            yield item

    def read(times: list[Fraction]) -> list[Frame]:
        found = dict(_images(_shown_at(timed(), sorted(set(times))), sampling, source))
        return [Frame(float(time), found[time]) for time in times if time in found]

    expected = _middle(declared, own_rate, rate, length) if declared else []
    frames = read(expected)
    times = _middle(end, own_rate, rate, length)
    if times != expected:
        frames = read(times)
    if len(frames) < length:
        raise VideoError(f"{source} changed while it was read; try again once it is complete.")
    return frames


def count_frames(source: str | os.PathLike[str], sampling: Sampling, *, threads: int = 0) -> int:
    """How many frames ``read_frames`` yields: all are decoded, and none is scaled."""
    return sum(1 for _ in _sampled(source, sampling, None, threads))


def check_length(frames: int) -> None:
    """Raise UsageError for a number of frames that a clip cannot have."""
    if not 1 <= frames <= MAX_CLIP_FRAMES:
        raise UsageError(f"A clip has from 1 to {MAX_CLIP_FRAMES} frames, got {frames}.")


def chunked(frames: Iterable[Frame], size: int, window: int | None = None) -> Iterator[list[Frame]]:
    """Chunks of ``size`` frames, the last one shorter; a new one starts every ``window`` frames.

    The frames read before a VideoError are yielded as a chunk before it is raised.
    """
    chunk: list[Frame] = []
    try:
        for read, frame in enumerate(frames, 1):
            chunk.append(frame)
            if len(chunk) == size or (window is not None and read % window == 0):
                yield chunk
                chunk = []
    except VideoError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def to_tensor(frames: Sequence[Frame]) -> Tensor:
    """Frames as (3, T, H, W), float32 in [0, 1]."""
    stacked = torch.from_numpy(np.stack([frame.image for frame in frames]))
    return stacked.permute(3, 0, 1, 2).float().div_(MAX_VALUE)


def as_rate(fps: float) -> Fraction:
    """The exact rate that a number stands for; UsageError outside MIN_FPS to MAX_FPS."""
    if not MIN_FPS <= fps <= MAX_FPS:  # false for nan too
        raise UsageError(f"A frame rate is from {MIN_FPS} to {MAX_FPS:.0f} per second, got {fps}.")
    return Fraction(fps).limit_denominator(FPS_DENOMINATOR)


def _sampled(
    source: str | os.PathLike[str], sampling: Sampling, image_fps: float | None, threads: int
) -> Iterator[tuple[Fraction, Any]]:
    """(time, frame as FFmpeg decoded it) at the sampling's rate."""
    timed = _decoded(source, sampling, image_fps, threads)
    if sampling.fps is None:
        return ((start, frame) for start, _, frame in timed)
    step = 1 / as_rate(sampling.fps)
    return _shown_at(timed, (i * step for i in count()))


def _decoded(
    source: str | os.PathLike[str], sampling: Sampling, image_fps: float | None, threads: int
) -> Iterator[Timed]:
    """The frames of a video or of a folder of images; VideoError if there is none."""
    import_av()
    if Path(source).is_dir():
        timed = read_images(Path(source), 1 / _image_rate(sampling, image_fps))
    else:
        timed = decoded(str(source), threads)
    empty = True
    for item in timed:
        empty = False
        yield item
    if empty:
        raise VideoError(f"{source} contains no image; pass a video, or a folder of images.")


def _image_rate(sampling: Sampling, image_fps: float | None) -> Fraction:
    return as_rate(image_fps or sampling.fps or float(FALLBACK_FPS))


def _shown_at(timed: Iterable[Timed], times: Iterable[Fraction]) -> Iterator[tuple[Fraction, Any]]:
    """(time, frame as FFmpeg decoded it) at increasing times, until the video ends."""
    remaining = iter(times)
    time = next(remaining, None)
    shown, end = None, Fraction(0)
    for start, stop, frame in timed:
        while shown is not None and time is not None and time < start:
            yield time, shown
            time = next(remaining, None)
        shown, end = frame, stop
    while shown is not None and time is not None and time < end:
        yield time, shown
        time = next(remaining, None)


def _images(
    shown: Iterable[tuple[Fraction, Any]], sampling: Sampling, source: str | os.PathLike[str]
) -> Iterator[tuple[Fraction, Image]]:
    """(time, image); consecutive times at which the same frame is shown share one image."""
    previous: Any = None
    image: Image | None = None
    for time, frame in shown:
        if image is None or frame is not previous:
            previous = frame
            image = to_image(frame, sampling.resize, sampling.size, source)
        yield time, image


def _declared(
    source: str | os.PathLike[str], sampling: Sampling
) -> tuple[Fraction | None, Fraction]:
    """The duration of a video in seconds, as far as it says, and its frames per second."""
    if Path(source).is_dir():
        rate = _image_rate(sampling, None)
        return len(image_files(Path(source))) / rate, rate
    return declared_seconds(source), frame_rate(source)


def _middle(seconds: Fraction, own_rate: Fraction, rate: Fraction, length: int) -> list[Fraction]:
    """The times of ``length`` frames in the middle, modulo the duration of the video."""
    offset = max(0, math.floor((seconds - length / rate) / 2 * own_rate))
    return [(offset / own_rate + i / rate) % seconds for i in range(length)]
