"""Decode videos, images and cameras with FFmpeg (through PyAV), within fixed limits.

A file declares its own frame sizes and timestamps, so a few hundred bytes can claim any amount of
memory and time. Anything beyond the limits below is an error.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from movinet_convert.errors import UsageError, VideoError
from movinet_convert.files.extras import missing_extra
from movinet_convert.files.reading import open_regular

MAX_PIXELS = 1 << 26  # per frame: 8192 x 8192, twice the size of 8K
MAX_STILL = 600  # seconds between two frames; static screen recordings stay below it
MAX_SECONDS = 24 * 3600  # per file; cameras are not limited
MAX_DECODED_PIXELS = 1920 * 1080 * 60 * MAX_SECONDS  # per file: MAX_SECONDS of 1080p at 60 fps
# A file is damaged if it ends earlier than it declares by more than both of these.
MISSING_SECONDS = Fraction(1)
MISSING_SHARE = Fraction(1, 10)
NETWORK_TIMEOUT = 30.0  # seconds

VIDEO_SUFFIXES = {".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"}
VIDEO_SUFFIXES |= {".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv", ".3gp"}
IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
CAMERA = re.compile(r"camera(?::(\d+))?")
DEVICE_FOLDER = "/dev/"
LOCAL_SCHEME = "file:"
# Capture devices by operating system: (FFmpeg's format, name of device N).
CAPTURE = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}:none"),
    "win32": ("vfwcap", "{}"),
}
FALLBACK_FPS = Fraction(25)
# Formats that refer to other files and addresses instead of containing frames.
REFERRING = {"concat", "dash", "hls", "imf", "lavfi", "rtsp", "sdp", "webm_dash_manifest"}

Timed = tuple[Fraction, Fraction, Any]  # start, end, frame


def import_av() -> Any:
    """PyAV; MissingExtraError where it is not installed."""
    try:
        import av
    except ImportError:
        raise missing_extra("Reading and writing videos", "video") from None
    return av


def is_live(source: str | os.PathLike[str]) -> bool:
    """Whether the source is a camera or an address on the network."""
    text = str(source)
    if CAMERA.fullmatch(text) or ("://" in text and not text.startswith(LOCAL_SCHEME)):
        return True
    return text.startswith(DEVICE_FOLDER) and Path(text).is_char_device()


def video_files(folder: Path) -> list[Path]:
    """The videos in a folder, by name; UsageError if it cannot be listed."""
    return sorted(p for p in listed(folder) if p.suffix.lower() in VIDEO_SUFFIXES)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, ``frame2`` before ``frame10``."""

    def natural_order(path: Path) -> list[tuple[int, str]]:
        return [(int(d or 0), text) for d, text in re.findall(r"(\d+)|(\D+)", path.name)]

    found = (p for p in listed(folder) if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(found, key=natural_order)


def listed(folder: Path) -> list[Path]:
    """The entries of a folder that are not hidden; UsageError if it cannot be listed."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise UsageError(f"{folder} cannot be listed ({error.strerror}).") from None


def duration(source: str | os.PathLike[str]) -> float | None:
    """Seconds of a video as its file declares, or None if it does not or is no file."""
    if is_live(source) or Path(source).is_dir():
        return None
    with _opened(str(source), "a video") as (container, _):
        length = container.duration
        return None if length is None else float(length / import_av().time_base)


def frame_rate(source: str | os.PathLike[str]) -> Fraction:
    """Average frames per second of a video file."""
    with _opened(str(source), "a video") as (_, stream):
        return _average_rate(stream)


def declared_seconds(source: str | os.PathLike[str]) -> Fraction | None:
    """The exact duration of the frames of a video file as it declares it, or None if it does not.

    Unlike ``duration``, which is that of the whole file, and rounded.
    """
    with _opened(str(source), "a video") as (container, stream):
        return _declared_seconds(container, stream)


def decoded(source: str, threads: int) -> Iterator[Timed]:
    """Every frame of a video with its start and end time in seconds; the first starts at 0.

    ``threads`` are FFmpeg's, 0 to let it choose. Jumps of a live source's clock by more than
    MAX_STILL are removed from the times.

    Raises VideoError if the source cannot be read, is cut off, ends before its declared duration
    or exceeds the limits of this module.
    """
    av, live = import_av(), is_live(source)
    with _opened(source, "a video") as (container, stream):
        if threads:
            stream.codec_context.thread_count = threads
        length = 1 / _average_rate(stream)
        offset: Fraction | None = None
        count, pixels, before, end = 0, 0, Fraction(0), Fraction(0)
        try:
            for frame in container.decode(stream):
                stamp = None if frame.pts is None else Fraction(frame.pts * frame.time_base)
                if offset is None:
                    offset = stamp or Fraction(0)
                start = end if stamp is None else stamp - offset
                if live and stamp is not None and abs(start - end) > MAX_STILL:
                    offset, start = stamp - end, end
                pixels += frame.width * frame.height
                if not live:
                    _check_still(source, before, start - before)
                    _check_size(source, start, pixels)
                yield start, start + length, frame
                count, before, end = count + 1, start, start + length
        except av.FFmpegError as error:
            if not count:
                raise
            declared = _declared_seconds(container, stream)
            of = f" of {float(declared):.1f} s" if declared else ""
            raise VideoError(
                f"{source} was cut off after {count} frames, at {float(end):.1f} s{of} "
                f"({_reason(error)}); the file is damaged, or the connection was lost."
            ) from None
        if not live and count:
            _check_still(source, before, length)
            _check_complete(source, count, end, _declared_seconds(container, stream))


def read_images(folder: Path, step: Fraction) -> Iterator[Timed]:
    """The images in a folder, one every ``step`` seconds; VideoError as ``decoded`` raises."""
    for i, path in enumerate(image_files(folder)):
        with _opened(str(path), "an image") as (container, stream):
            frame = next(container.decode(stream))
        yield i * step, (i + 1) * step, frame


@contextmanager
def ffmpeg(what: str) -> Iterator[None]:
    """Raise FFmpeg's errors as a VideoError that starts with ``what``."""
    av = import_av()
    try:
        yield
    except (av.FFmpegError, StopIteration) as error:
        raise VideoError(f"{what} ({_reason(error)}); check the path and the file.") from None


@contextmanager
def _opened(source: str, kind: str) -> Iterator[tuple[Any, Any]]:
    """The container and the video track of a source, its frames limited to MAX_PIXELS."""
    av = import_av()
    what = f"{source} cannot be read as {kind}"
    if not is_live(source):
        try:
            open_regular(source, VideoError).close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise VideoError(f"{what} ({reason}); check the path and the file.") from None
    with ffmpeg(what), av.open(**_arguments(source)) as container:
        if not container.streams.video:
            raise VideoError(f"{source} has no video track; pass a file that has one.")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise VideoError(f"{source} is in a format that FFmpeg cannot decode here.")
        least = 0 if is_live(source) else 1  # some codecs give the size only with the first frame
        pixels = stream.width * stream.height
        if pixels < least:
            raise VideoError(
                f"{source} has no known size, as an animated WebP or an image of more than "
                f"{MAX_PIXELS} pixels: scale it down, or convert it to .mp4."
            )
        if pixels > MAX_PIXELS:
            raise VideoError(
                f"{source} has {stream.width} x {stream.height} pixels; frames can have up to "
                f"{MAX_PIXELS} pixels, such as 8192 x 8192: scale it down first."
            )
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        stream.thread_type = "AUTO"
        yield container, stream


def _arguments(source: str) -> dict[str, Any]:
    """The arguments of ``av.open`` for a camera, an address or a file."""
    # The limit applies when opening too: FFmpeg decodes frames to find their size.
    options = {"max_pixels": str(MAX_PIXELS)}
    # The title of a video can be in any encoding.
    arguments = {"file": source, "options": options, "metadata_errors": "replace"}
    system, device = CAPTURE.get(sys.platform, CAPTURE["linux"])
    if camera := CAMERA.fullmatch(source):
        return arguments | {"file": device.format(camera.group(1) or 0), "format": system}
    if not is_live(source):
        options["format_whitelist"] = ",".join(sorted(import_av().formats_available - REFERRING))
        return arguments
    if source.startswith(DEVICE_FOLDER):
        return arguments | {"format": system}
    return arguments | {"timeout": NETWORK_TIMEOUT}


def _average_rate(stream: Any) -> Fraction:
    rate = Fraction(stream.average_rate or 0)
    return rate if rate > 0 else FALLBACK_FPS


def _declared_seconds(container: Any, stream: Any) -> Fraction | None:
    if stream.duration is not None:
        return Fraction(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return Fraction(container.duration, import_av().time_base)
    return None  # a container's duration is that of its longest track, possibly the audio


def _check_size(source: str, seconds: Fraction, pixels: int) -> None:
    if seconds > MAX_SECONDS or pixels > MAX_DECODED_PIXELS:
        raise VideoError(
            f"{source} is longer than the {MAX_SECONDS // 3600} hours of 1080p that are allowed; "
            "cut it into parts."
        )


def _check_still(source: str, start: Fraction, seconds: Fraction) -> None:
    if seconds > MAX_STILL:
        raise VideoError(
            f"{source} shows one frame for {float(seconds):.0f} s from {float(start):.1f} s on, "
            f"longer than the {MAX_STILL} s that are allowed; its timestamps are damaged."
        )


def _check_complete(source: str, count: int, end: Fraction, declared: Fraction | None) -> None:
    if declared is not None and declared - end > max(MISSING_SECONDS, declared * MISSING_SHARE):
        raise VideoError(
            f"{source} ends after {count} frames, at {float(end):.1f} s of "
            f"{float(declared):.1f} s; the file is damaged or was cut off."
        )


def _reason(error: Exception) -> str:
    if isinstance(error, import_av().error.ExitError):
        return f"no answer for {NETWORK_TIMEOUT:.0f} s"
    return str(getattr(error, "strerror", None) or "no image in it")
