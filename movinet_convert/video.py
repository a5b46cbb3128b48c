"""Videos as the network reads them: files, folders of pictures, cameras; and writing mp4 files.

Needs the extra [video]. FFmpeg (through PyAV) decodes and scales; frames between two sampled ones
are decoded, since others depend on them, but never converted or scaled.
"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from movinet_convert.errors import MissingExtraError, UsageError, VideoError
from movinet_convert.transforms import MAX_VALUE, resized

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from movinet_convert.variants import Variant

Image = NDArray[np.uint8]

VIDEO_SUFFIXES = frozenset(
    [
        ".avi",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".webm",
        ".wmv",
        ".3gp",
    ]
)
PICTURE_SUFFIXES = frozenset([".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"])
CAMERA = re.compile(r"camera(?::(\d+))?")
DEVICE_FOLDER = "/dev/"
# How each system names its capture devices to FFmpeg: (format, name of device N).
CAPTURE = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}:none"),
    "win32": ("vfwcap", "{}"),
}
FALLBACK_FPS = Fraction(25)
FPS_DENOMINATOR = 1001  # 30000/1001 is the finest rate in use
H264_QUALITY = "18"  # x264's scale: visually lossless


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are read, and how they are cut; None leaves a thing as it is.

    ``fps`` frames a second, the shorter side scaled to ``resize`` pixels, then the middle
    ``size`` x ``size`` pixels.
    """

    fps: float | None = None
    resize: int | None = None
    size: int | None = None

    @staticmethod
    def of(variant: Variant, fps: float | None = None) -> Sampling:
        """As the variant was evaluated; ``fps`` replaces its frame rate."""
        expected = variant.input
        return Sampling(fps or expected.fps, expected.resize, expected.size)


@dataclass(frozen=True)
class Frame:
    """A picture (H, W, 3), RGB, and when it shows, in seconds from the video's start."""

    time: float
    image: Image


def import_av() -> Any:
    """PyAV; MissingExtraError where it is not installed."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("Reading and writing videos", "video") from None
    return av


def read_frames(
    source: str | os.PathLike[str],
    sampling: Sampling,
    *,
    picture_fps: float | None = None,
    threads: int = 0,
) -> Iterator[Frame]:
    """The frames of a video at a steady rate, one at a time, however long it is.

    ``source`` is a file, an address FFmpeg can open (``rtsp://…``), ``camera`` or ``camera:N``, or
    a folder of pictures in the order of their names; ``picture_fps`` says how many of those make a
    second (as many as are asked for unless given). The frame at time k / fps is the one on screen
    at that moment. ``threads`` are FFmpeg's, 0 for as many as it likes.

    Raises VideoError where the source cannot be read or breaks off.
    """
    import_av()
    path = Path(source)
    if path.is_dir():
        timed = _pictures(path, picture_fps or sampling.fps or float(FALLBACK_FPS))
    else:
        timed = _decoded(str(source), threads)
    seen = False
    for time, frame in _steady(timed, sampling.fps):
        seen = True
        yield Frame(float(time), _picture(frame, sampling))
    if not seen:
        raise VideoError(f"{source} holds no picture; give a video, or a folder of pictures.")


def read_clip(
    source: str | os.PathLike[str],
    sampling: Sampling,
    *,
    max_frames: int | None = None,
    threads: int = 0,
) -> Tensor:
    """A video as one clip (3, T, H, W), float32, RGB in [0, 1]; at most ``max_frames``."""
    frames = []
    for frame in read_frames(source, sampling, threads=threads):
        frames.append(frame)
        if len(frames) == max_frames:
            break
    return to_tensor(frames)


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

    Raises VideoError where the file cannot be written or there is no picture.
    """
    av = import_av()
    stream = None
    with _ffmpeg(f"{path} cannot be written"), av.open(str(path), "w") as container:
        for image in images:
            even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
            if stream is None:
                stream = container.add_stream(codec, rate=_rate(fps))
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": H264_QUALITY}
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
    if stream is None:
        Path(path).unlink(missing_ok=True)
        raise VideoError(f"{path} was not written: there was no picture to write.")


def video_files(folder: Path) -> list[Path]:
    """The videos in a folder, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)


def is_live(source: str | os.PathLike[str]) -> bool:
    """Whether frames come as they happen: a camera, or an address on the network."""
    text = str(source)
    return bool(CAMERA.fullmatch(text)) or text.startswith(DEVICE_FOLDER) or "://" in text


def duration(source: str | os.PathLike[str]) -> float | None:
    """Seconds of a video, or None where only watching it would tell."""
    if is_live(source) or Path(source).is_dir():
        return None
    av = import_av()
    with _ffmpeg(f"{source} cannot be read as a video"), av.open(str(source)) as container:
        length = container.duration
        return None if length is None else float(length / av.time_base)


def frame_rate(source: str | os.PathLike[str]) -> float:
    """Frames a second of a video file."""
    av = import_av()
    with _ffmpeg(f"{source} cannot be read as a video"), av.open(str(source)) as container:
        return float(_stream(container, str(source)).average_rate or FALLBACK_FPS)


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(FPS_DENOMINATOR)


def _steady(
    timed: Iterable[tuple[Fraction, Fraction, Any]], fps: float | None
) -> Iterator[tuple[Fraction, Any]]:
    """(start, end, frame) at any rate -> (time, frame) at ``fps``, from the first start on."""
    if fps is None:
        yield from ((start, frame) for start, _, frame in timed)
        return
    if fps <= 0:
        raise UsageError(f"A frame rate is above 0, got {fps}.")
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


def _decoded(source: str, threads: int) -> Iterator[tuple[Fraction, Fraction, Any]]:
    """Every frame of a video with the times between which it shows."""
    av = import_av()
    file, options = _capture(source)
    with (
        _ffmpeg(f"{source} cannot be read as a video"),
        av.open(file, **options) as container,
    ):
        stream = _stream(container, source)
        stream.thread_type = "AUTO"
        if threads:
            stream.codec_context.thread_count = threads
        length = 1 / Fraction(stream.average_rate or FALLBACK_FPS)
        first: Fraction | None = None
        expected = Fraction(0)
        for frame in container.decode(stream):
            start = expected if frame.pts is None else Fraction(frame.pts * frame.time_base)
            if first is None:
                first = start
            yield start - first, start - first + length, frame
            expected = start + length


def _stream(container: Any, source: str) -> Any:
    if not container.streams.video:
        raise VideoError(f"{source} has no video track; give a file with pictures.")
    return container.streams.video[0]


def _capture(source: str) -> tuple[str, dict[str, str]]:
    """What FFmpeg opens for a source, and how: cameras go by the system's name and format."""
    system, device = CAPTURE.get(sys.platform, CAPTURE["linux"])
    camera = CAMERA.fullmatch(source)
    if camera:
        return device.format(camera.group(1) or 0), {"format": system}
    return source, {"format": system} if source.startswith(DEVICE_FOLDER) else {}


def _pictures(folder: Path, fps: float) -> Iterator[tuple[Fraction, Fraction, Any]]:
    """The pictures of a folder, ``frame2`` before ``frame10``."""
    av = import_av()
    files = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES]
    length = 1 / _rate(fps)
    for i, path in enumerate(sorted(files, key=_natural_order)):
        with _ffmpeg(f"{path} cannot be read as a picture"), av.open(str(path)) as container:
            frame = next(container.decode(video=0))
        yield i * length, (i + 1) * length, frame


def _natural_order(path: Path) -> list[tuple[int, str]]:
    return [(int(d or 0), text) for d, text in re.findall(r"(\d+)|(\D+)", path.name)]


def _picture(frame: Any, sampling: Sampling) -> Image:
    """A decoded frame, scaled, turned upright and cut."""
    width, height = frame.width, frame.height
    if sampling.resize is not None:
        height, width = resized(height, width, sampling.resize)
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


@contextmanager
def _ffmpeg(what: str) -> Iterator[None]:
    """FFmpeg's errors as one sentence that begins with ``what``."""
    av = import_av()
    try:
        yield
    except (av.FFmpegError, StopIteration) as error:
        reason = getattr(error, "strerror", None) or "no picture in it"
        raise VideoError(f"{what} ({reason}); check the path and the file.") from None
