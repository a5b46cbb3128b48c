"""Videos as the network reads them: files, folders of pictures, cameras; and writing mp4 files.

Needs the extra [video]. FFmpeg (through PyAV) decodes and scales; frames between two sampled ones
are decoded, since others depend on them, but never converted or scaled.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from movinet_convert.errors import UsageError, VideoError
from movinet_convert.files.writing import replacing
from movinet_convert.model.transforms import MAX_VALUE, resized
from movinet_convert.variants import Variant
from movinet_convert.video.decode import (
    FALLBACK_FPS,
    MAX_PIXELS,
    VIDEO_SUFFIXES,
    Timed,
    decoded,
    duration,
    ffmpeg,
    frame_rate,
    import_av,
    is_live,
    pictures,
    video_files,
)

__all__ = [
    "VIDEO_SUFFIXES",
    "Frame",
    "Image",
    "Sampling",
    "duration",
    "frame_rate",
    "is_live",
    "read_chunks",
    "read_clip",
    "read_frames",
    "read_middle",
    "to_tensor",
    "video_files",
    "write_video",
]

Image = NDArray[np.uint8]

FPS_DENOMINATOR = 1001  # 30000/1001 is the finest rate in use
MIN_FPS, MAX_FPS = 0.001, 1000.0
MAX_CLIP_FRAMES = 10_000  # of one clip in memory
SPARE_FRAMES = 512  # beyond those of a clip, that are kept rather than read again
VIDEO_OUTPUTS = (".mp4", ".m4v", ".mov", ".mkv")  # what takes H.264
H264_QUALITY = "18"  # x264's scale: visually lossless


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are read, and how they are cut; None leaves a thing as it is.

    ``fps`` frames a second, the shorter side scaled to ``resize`` pixels, then the middle
    ``size`` x ``size`` pixels. Raises UsageError for a rate outside of 0.001 to 1000.
    """

    fps: float | None = None
    resize: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.fps is not None:
            _check_rate(self.fps)

    @staticmethod
    def of(variant: Variant, fps: float | None = None) -> Sampling:
        """As the variant was evaluated; ``fps`` replaces its frame rate."""
        expected = variant.input
        return Sampling(expected.fps if fps is None else fps, expected.resize, expected.size)


@dataclass(frozen=True)
class Frame:
    """A picture (H, W, 3), RGB, and when it shows, in seconds from the video's start."""

    time: float
    image: Image


def read_frames(
    source: str | os.PathLike[str],
    sampling: Sampling,
    *,
    picture_fps: float | None = None,
    threads: int = 0,
    skip: int = 0,
) -> Iterator[Frame]:
    """The frames of a video at a steady rate, one at a time, however long it is.

    ``source`` is a file, an address FFmpeg can open (``rtsp://…``), ``camera`` or ``camera:N``, or
    a folder of pictures in the order of their names; ``picture_fps`` says how many of those make a
    second (as many as are asked for unless given). The frame at time k / fps is the one on screen
    at that moment. ``threads`` are FFmpeg's, 0 for as many as it likes. The first ``skip`` of the
    sampled frames are left out. Frames that repeat share one picture.

    Raises VideoError where the source cannot be read, breaks off, ends before its time, or is
    beyond the limits of ``decoding``.
    """
    known: Any = None
    image: Image | None = None
    for time, frame in islice(_sampled(source, sampling, picture_fps, threads), skip, None):
        if image is None or frame is not known:
            known, image = frame, _picture(frame, sampling, source)
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
    """``length`` frames from the middle of a video; a shorter one starts over at its end.

    As ``sample_sequence`` in official/vision/ops/preprocess_ops_3d.py. All of the video is decoded,
    and no more than ``length`` + SPARE_FRAMES frames are in memory: a longer one is read again.

    Raises VideoError as ``read_frames`` does and for a live source, UsageError for a ``length``
    that is not from 1 to MAX_CLIP_FRAMES.
    """
    if not 1 <= length <= MAX_CLIP_FRAMES:
        raise UsageError(f"A clip has from 1 to {MAX_CLIP_FRAMES} frames, got {length}.")
    if is_live(source):
        raise VideoError(f"{source} is live and has no middle; name a file.")
    kept: deque[Frame] = deque()
    for count, frame in enumerate(read_frames(source, sampling, threads=threads), 1):
        kept.append(frame)
        while len(kept) > count - _middle_start(count, length):
            kept.popleft()
        if len(kept) > length + SPARE_FRAMES:
            total = sum(1 for _ in _sampled(source, sampling, None, threads))
            first = _middle_start(total, length)
            again = read_frames(source, sampling, threads=threads, skip=first)
            return list(islice(again, length))
    return [kept[i % len(kept)] for i in range(length)]


def read_chunks(
    source: str | os.PathLike[str], sampling: Sampling, frames: int, *, threads: int = 0
) -> Iterator[Tensor]:
    """A video as clips (3, t, H, W) of ``frames`` frames, the last one with what is left."""
    chunk: list[Frame] = []
    for frame in read_frames(source, sampling, threads=threads):
        chunk.append(frame)
        if len(chunk) == frames:
            yield to_tensor(chunk)
            chunk = []
    if chunk:
        yield to_tensor(chunk)


def to_tensor(frames: Sequence[Frame]) -> Tensor:
    """Frames as (3, T, H, W), float32 in [0, 1]."""
    stacked = torch.from_numpy(np.stack([frame.image for frame in frames]))
    return stacked.permute(3, 0, 1, 2).float().div_(MAX_VALUE)


def write_video(
    path: str | os.PathLike[str], images: Iterable[Image], fps: float, *, codec: str = "libx264"
) -> None:
    """Write pictures (H, W, 3), RGB, as an H.264 video; its sides are cut to even lengths.

    What is at ``path`` is replaced once all is written. Raises VideoError where the file cannot
    be written or there is no picture.
    """
    av = import_av()
    stream = None
    with (
        replacing(path, VideoError) as temporary,
        ffmpeg(f"{path} cannot be written"),
        av.open(str(temporary), "w") as container,
    ):
        for image in images:
            even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
            if stream is None:
                stream = container.add_stream(codec, rate=_rate(fps))
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": H264_QUALITY}
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            container.mux(stream.encode(frame))
        if stream is None:
            raise VideoError(f"{path} was not written: there was no picture to write.")
        container.mux(stream.encode())


def _check_rate(fps: float) -> None:
    if not MIN_FPS <= fps <= MAX_FPS:  # nan is not either
        raise UsageError(f"A frame rate is from {MIN_FPS} to {MAX_FPS:.0f} a second, got {fps}.")


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(FPS_DENOMINATOR)


def _middle_start(count: int, length: int) -> int:
    return max(0, (count - length) // 2)


def _sampled(
    source: str | os.PathLike[str], sampling: Sampling, picture_fps: float | None, threads: int
) -> Iterator[tuple[Fraction, Any]]:
    """(time, frame as FFmpeg decoded it) at the rate that is asked for; at least one."""
    import_av()
    path = Path(source)
    if path.is_dir():
        fps = picture_fps or sampling.fps or float(FALLBACK_FPS)
        _check_rate(fps)
        timed = pictures(path, 1 / _rate(fps))
    else:
        timed = decoded(str(source), threads)
    seen = False
    for item in _steady(timed, sampling.fps):
        seen = True
        yield item
    if not seen:
        raise VideoError(f"{source} holds no picture; give a video, or a folder of pictures.")


def _steady(timed: Iterable[Timed], fps: float | None) -> Iterator[tuple[Fraction, Any]]:
    """(start, end, frame) at any rate -> (time, frame) at ``fps``, from the first start on."""
    if fps is None:
        yield from ((start, frame) for start, _, frame in timed)
        return
    step, index = 1 / _rate(fps), 0
    shown, end = None, Fraction(0)
    for start, stop, frame in timed:
        while shown is not None and index * step < start:
            yield index * step, shown
            index += 1
        shown, end = frame, stop
    while shown is not None and index * step < end:
        yield index * step, shown
        index += 1


def _picture(frame: Any, sampling: Sampling, source: str | os.PathLike[str]) -> Image:
    """A decoded frame, scaled, turned upright and cut."""
    width, height = frame.width, frame.height
    if sampling.resize is not None:
        height, width = resized(height, width, sampling.resize)
    if height * width > MAX_PIXELS:
        raise VideoError(
            f"{source} has {frame.width} x {frame.height} pixels, too narrow a picture: its "
            f"shorter side cannot be scaled to {sampling.resize}."
        )
    image: Image = frame.to_ndarray(
        format="rgb24", width=width, height=height, interpolation="BILINEAR"
    )
    # Phones store a video as the sensor lay and say by how much to turn it.
    image = np.rot90(image, round(getattr(frame, "rotation", 0) / 90) % 4)
    if sampling.size is not None:
        image = _middle(image, sampling.size)
    return np.ascontiguousarray(image)


def _middle(image: Image, size: int) -> Image:
    height, width = image.shape[:2]
    top, left = max(height - size, 0) // 2, max(width - size, 0) // 2
    return image[top : top + size, left : left + size]
