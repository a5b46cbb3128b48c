"""Unusual videos: odd timestamps, huge images, truncated files; and full disks."""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np

from movinet_convert.video.decode import import_av

HEIGHT, WIDTH = 32, 48
TICKS = 100  # a second; a month of finer ones is too long for mp4


def write_stamped(path: Path, seconds: Sequence[float], level: int = 120) -> Path:
    """A video of grey frames shown from the given times on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    av = import_av()
    options = {"video_track_timescale": str(TICKS)} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.max_b_frames = 0
        for moment in seconds:
            image = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(moment * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut_off(source: Path, target: Path, share: float) -> Path:
    """A copy of a video, its index first, truncated to a share of its bytes."""
    av = import_av()
    moved = target.with_name(f"whole-{target.name}")
    with (
        av.open(str(source)) as before,
        av.open(str(moved), "w", options={"movflags": "faststart"}) as after,
    ):
        stream = after.add_stream_from_template(before.streams.video[0])
        for packet in before.demux(before.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                after.mux(packet)
    data = moved.read_bytes()
    moved.unlink()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def write_huge_png(path: Path, side: int) -> Path:
    """A black image of side x side pixels in a small file."""
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8 + 1)  # one bit a pixel
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", data)
        + _chunk(b"IEND", b"")
    )
    return path


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make writes beyond ``size`` bytes of a file fail in the block, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
