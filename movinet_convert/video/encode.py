"""Write images as an H.264 video. Needs the extra [video]."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from movinet_convert.errors import VideoError
from movinet_convert.files.writing import replacing
from movinet_convert.video.decode import ffmpeg, import_av
from movinet_convert.video.frames import Frame, as_rate
from movinet_convert.video.pixels import Image

VIDEO_OUTPUTS = (".mp4", ".m4v", ".mov", ".mkv")  # containers of H.264
H264_QUALITY = "18"  # x264's constant rate factor: visually lossless
TICKS = 10_000  # per second, at least; a multiple of the frame rate, so that its times are exact


def write_video(path: str | os.PathLike[str], images: Iterable[Image], fps: float) -> None:
    """Write images (H, W, 3), RGB, at a constant frame rate, as ``write_frames`` does."""
    step = 1 / as_rate(fps)
    write_frames(path, (Frame(float(i * step), image) for i, image in enumerate(images)), fps)


def write_frames(path: str | os.PathLike[str], frames: Iterable[Frame], fps: float) -> None:
    """Write frames at their times, ``fps`` per second on average; odd sides lose a row or column.

    The file at ``path`` is replaced once the video is complete. Raises VideoError if it cannot be
    written or there are no frames, UsageError for a frame rate outside 0.001 to 1000.
    """
    av = import_av()
    rate, stream, last = as_rate(fps), None, -1
    tick = 1 / Fraction(rate.numerator * -(-TICKS // rate.numerator))
    with (
        replacing(path, VideoError) as temporary,
        ffmpeg(f"{path} cannot be written"),
        av.open(str(temporary), "w") as container,
    ):
        for item in frames:
            height, width = (side // 2 * 2 for side in item.image.shape[:2])
            if stream is None:
                stream = container.add_stream("libx264", rate=rate)
                stream.height, stream.width = height, width
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": H264_QUALITY}
                stream.codec_context.time_base = tick
                stream.codec_context.max_b_frames = 0  # reordered, they hide the last time
            image = np.ascontiguousarray(item.image[:height, :width])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            # Each later than the one before: damaged timestamps repeat, or go back.
            last = max(round(item.time / tick), last + 1)
            frame.pts, frame.time_base = last, tick
            container.mux(stream.encode(frame))
        if stream is None:
            raise VideoError(f"{path} was not written: there was no image to write.")
        container.mux(stream.encode())
