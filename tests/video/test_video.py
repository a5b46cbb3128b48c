"""Reading videos at a variant's frame rate and size, and writing them."""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from movinet_convert.errors import UsageError, VideoError
from movinet_convert.model.settings import get_variant
from movinet_convert.video import decode
from movinet_convert.video import frames as video
from movinet_convert.video.encode import write_frames, write_video
from movinet_convert.video.frames import (
    Sampling,
    chunked,
    read_clip,
    read_frames,
    read_middle,
    to_tensor,
)
from movinet_convert.video.pixels import Image
from tests.helpers.odd_videos import cut_off, write_huge_png, write_stamped

# H.264 at the quality used here keeps a plain grey within this many levels.
CODEC_TOLERANCE = 4
WIDTH, HEIGHT = 160, 96


def grey(level: int, height: int = HEIGHT, width: int = WIDTH) -> Image:
    return np.full((height, width, 3), level, np.uint8)


def levels(frames: list[video.Frame]) -> list[int]:
    return [int(frame.image.mean().round()) for frame in frames]


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 25 frames a second; frame i is grey of level 4 i + 20."""
    path = tmp_path_factory.mktemp("video") / "ramp.mp4"
    write_video(path, (grey(4 * i + 20) for i in range(50)), 25)
    return path


def test_the_videos_own_frame_rate_keeps_all_frames(ramp: Path) -> None:
    frames = list(read_frames(ramp, Sampling()))
    assert len(frames) == 50
    np.testing.assert_allclose(levels(frames), np.arange(50) * 4 + 20, atol=CODEC_TOLERANCE)
    np.testing.assert_allclose([f.time for f in frames], np.arange(50) / 25, atol=1e-6)


def test_a_lower_frame_rate_takes_every_nth_frame(ramp: Path) -> None:
    frames = list(read_frames(ramp, Sampling(fps=5)))
    np.testing.assert_allclose(levels(frames), np.arange(0, 50, 5) * 4 + 20, atol=CODEC_TOLERANCE)
    assert [f.time for f in frames] == pytest.approx([k / 5 for k in range(10)])


def test_a_fractional_frame_rate_takes_the_frame_shown_at_each_time(ramp: Path) -> None:
    frames = list(read_frames(ramp, Sampling(fps=12)))
    on_screen = [int(k / 12 * 25 + 1e-9) for k in range(24)]
    np.testing.assert_allclose(levels(frames), np.array(on_screen) * 4 + 20, atol=CODEC_TOLERANCE)


def test_a_higher_frame_rate_repeats_frames(ramp: Path) -> None:
    frames = list(read_frames(ramp, Sampling(fps=50)))
    assert len(frames) == 100
    np.testing.assert_allclose(
        levels(frames), np.repeat(np.arange(50) * 4 + 20, 2), atol=CODEC_TOLERANCE
    )


@pytest.mark.parametrize("name", ["a0-base", "a2-stream", "a5-stream"])
def test_a_clip_has_the_shape_and_range_the_variant_expects(ramp: Path, name: str) -> None:
    variant = get_variant(name)
    clip = read_clip(ramp, Sampling.of(variant))
    size = variant.input.size
    assert clip.shape == (3, 2 * variant.input.fps, size, size)
    assert clip.dtype == torch.float32
    assert clip[:, 0].mean().item() == pytest.approx(20 / 255, abs=CODEC_TOLERANCE / 255)


def test_a_wide_video_is_center_cropped(tmp_path: Path) -> None:
    image = grey(0, 100, 300)
    image[:, 100:200] = 200
    write_video(tmp_path / "wide.mp4", [image] * 5, 5)
    clip = read_clip(tmp_path / "wide.mp4", Sampling(5, 100, 90))
    assert clip.shape == (3, 5, 90, 90)
    assert clip.min().item() * 255 > 190


def test_channels_are_in_rgb_order(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = 255
    write_video(tmp_path / "red.mp4", [image] * 3, 3)
    clip = read_clip(tmp_path / "red.mp4", Sampling())
    red, green, blue = clip.mean(dim=(1, 2, 3)).tolist()
    assert red > 0.97
    assert max(green, blue) < 0.03


def test_chunks_concatenated_are_the_clip(ramp: Path) -> None:
    sampling = Sampling(5, 64, 48)
    chunks = [to_tensor(chunk) for chunk in chunked(read_frames(ramp, sampling), 4)]
    assert [chunk.shape[1] for chunk in chunks] == [4, 4, 2]
    assert torch.equal(torch.cat(chunks, dim=1), read_clip(ramp, sampling))


def test_a_clip_has_at_most_max_frames(ramp: Path) -> None:
    assert read_clip(ramp, Sampling(5, 64, 48), max_frames=3).shape == (3, 3, 48, 48)


def test_a_folder_of_images_is_read_in_natural_order(tmp_path: Path) -> None:
    av = decode.import_av()
    for i in (1, 2, 10):
        frame = av.VideoFrame.from_ndarray(grey(20 * i), format="rgb24")
        with av.open(str(tmp_path / f"frame{i}.png"), "w") as container:
            stream = container.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb24"
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    assert levels(list(read_frames(tmp_path, Sampling(fps=5)))) == [20, 40, 200]
    thinned = list(read_frames(tmp_path, Sampling(fps=5), image_fps=10))
    assert levels(thinned) == [20, 200]


def test_rotation_metadata_is_applied(tmp_path: Path) -> None:
    image = grey(0, 96, 160)
    image[:, :40] = 250  # the left edge as the sensor lay
    path = tmp_path / "turned.mp4"
    write_video(path, [image] * 4, 4)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # ISO/IEC 14496-12, 8.3.2: after volume and reserved
    quarter_turn = (0, 1 << 16, 0, -1 << 16, 0, 0, 96 << 16, 0, 1 << 30)  # clockwise
    data[matrix : matrix + 36] = struct.pack(">9i", *quarter_turn)
    path.write_bytes(data)
    image = next(iter(read_frames(path, Sampling()))).image
    assert image.shape == (160, 96, 3)
    assert image[:30].mean() > 200
    assert image[60:].mean() < 20


def test_a_camera_is_opened_as_a_capture_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pattern = "testsrc=duration=2:size={}40x240:rate=30"  # FFmpeg's own image source
    monkeypatch.setitem(decode.CAPTURE, decode.sys.platform, ("lavfi", pattern))
    frames = list(read_frames("camera:3", Sampling(5, 60, 48)))
    assert len(frames) == 10
    assert frames[0].image.shape == (48, 48, 3)


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_a_file_that_is_not_a_video_is_named_in_the_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"broken\.mp4 cannot be read as a video"):
        read_clip(path, Sampling())


def test_a_truncated_video_is_rejected(ramp: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.mp4"
    path.write_bytes(ramp.read_bytes()[: ramp.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"half\.mp4"):
        read_clip(path, Sampling())


def test_a_damaged_middle_is_an_error_that_says_how_much_was_read(
    ramp: Path, tmp_path: Path
) -> None:
    path, data = tmp_path / "damaged.mp4", bytearray(ramp.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 100] = b"\xff" * 100
    path.write_bytes(data)
    seen = []
    with pytest.raises(VideoError, match=r"cut off after \d+ frames, at \d\.\d s of 2\.0 s"):
        seen.extend(read_frames(path, Sampling()))
    assert 0 < len(seen) < 50


def test_a_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"nothere\.mp4.*No such file"):
        read_clip(tmp_path / "nothere.mp4", Sampling())


def test_a_folder_without_images_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="contains no image"):
        read_clip(tmp_path, Sampling())


@pytest.mark.parametrize("fps", [-1, 0, float("nan"), float("inf"), 1e-9, 1e308])
def test_a_frame_rate_outside_the_limits_is_rejected(fps: float) -> None:
    with pytest.raises(UsageError, match=r"from 0\.001 to 1000"):
        Sampling.of(get_variant("a0-base"), fps)


def test_writing_nothing_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no image to write"):
        write_video(tmp_path / "empty.mp4", [], 5)
    assert not (tmp_path / "empty.mp4").exists()


def test_frames_of_repeated_and_earlier_times_are_all_written(tmp_path: Path) -> None:
    times = [0.0, 0.2, 0.2, 0.1, 0.4]
    path = tmp_path / "repeated.mp4"
    write_frames(path, [video.Frame(time, grey(90)) for time in times], 5)
    seen = [frame.time for frame in read_frames(path, Sampling())]
    assert seen == pytest.approx([0, 0.2, 0.2, 0.2, 0.4], abs=0.001)


def test_a_huge_gap_between_timestamps_is_rejected_before_frames_are_repeated(
    tmp_path: Path,
) -> None:
    month = write_stamped(tmp_path / "month.mp4", [0, 0.2, 30 * 86400])
    frames = read_frames(month, Sampling(fps=5, resize=24, size=24))
    with pytest.raises(VideoError, match=r"month\.mp4 shows one frame for 2592000 s from 0\.2 s"):
        assert len(list(islice(frames, 100))) < 3


def test_a_frame_may_be_shown_for_minutes(tmp_path: Path) -> None:
    still = write_stamped(tmp_path / "still.mp4", [0, 500, 501])
    frames = list(islice(read_frames(still, Sampling(fps=1)), 501))
    assert frames[100].image is frames[400].image, "and is one image in memory"


def test_a_video_longer_than_a_day_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAX_SECONDS", 2)
    long = write_stamped(tmp_path / "long.mp4", [0, 1, 2, 3])
    with pytest.raises(VideoError, match=r"long\.mp4 is longer than"):
        list(read_frames(long, Sampling(fps=1)))


def test_a_huge_image_is_rejected_without_decoding_it(tmp_path: Path) -> None:
    write_huge_png(tmp_path / "bomb.png", 30_000)  # 2.7 GB of RGB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoError, match=r"bomb\.png has .*more than 67108864 pixels"):
        read_clip(tmp_path, Sampling())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_video_that_declares_a_huge_size_is_rejected(
    ramp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(VideoError, match=r"ramp\.mp4"):
        read_clip(ramp, Sampling())


def test_an_image_too_narrow_to_scale_is_rejected(tmp_path: Path) -> None:
    write_video(tmp_path / "narrow.mp4", [grey(9, 2, 8000)] * 2, 5)
    with pytest.raises(VideoError, match=r"8000 x 2 pixels, too narrow"):
        read_clip(tmp_path / "narrow.mp4", Sampling(resize=200))


@pytest.mark.parametrize("name", ["x.mp4", "frames/x.png"])
def test_a_pipe_is_rejected_without_blocking(tmp_path: Path, name: str) -> None:
    (tmp_path / "frames").mkdir()
    os.mkfifo(tmp_path / name)
    source = tmp_path / name if name == "x.mp4" else tmp_path / "frames"
    with pytest.raises(VideoError, match="is a named pipe"):
        read_clip(source, Sampling())


def test_a_title_in_another_encoding_is_ignored(ramp: Path, tmp_path: Path) -> None:
    named = tmp_path / "named.mp4"
    named.write_bytes(ramp.read_bytes().replace(b"VideoHandler", b"VideoH\xe4ndler"))
    assert torch.equal(read_clip(named, Sampling()), read_clip(ramp, Sampling()))


def test_an_unknown_codec_is_rejected(ramp: Path, tmp_path: Path) -> None:
    unknown = tmp_path / "unknown.mp4"
    unknown.write_bytes(ramp.read_bytes().replace(b"avc1\0\0", b"zzzz\0\0"))
    with pytest.raises(VideoError, match=r"unknown\.mp4"):
        read_clip(unknown, Sampling())


def test_an_animated_webp_is_rejected_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "moving.webp"
    images = [PIL.Image.fromarray(grey(level)) for level in (50, 200)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    with pytest.raises(VideoError, match=r"moving\.webp has no known size.*convert it to \.mp4"):
        next(read_frames(path, Sampling()))


def test_a_playlist_of_other_files_is_rejected(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait forever
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile pipe.mp4\n")
    with pytest.raises(VideoError, match=r"list\.mp4 cannot be read as a video"):
        read_clip(tmp_path / "list.mp4", Sampling())


def test_an_address_that_never_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "NETWORK_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.mp4"
        with pytest.raises(VideoError, match="no answer"):
            read_clip(address, Sampling())


def test_a_video_that_ends_early_raises_after_its_last_frame(ramp: Path, tmp_path: Path) -> None:
    broken = cut_off(ramp, tmp_path / "cut.mp4", 0.7)
    frames = read_frames(broken, Sampling())
    read = []
    with pytest.raises(VideoError, match=r"cut\.mp4 (was cut off|ends) after \d+ frames, at "):
        read.extend(frames)
    assert 0 < len(read) < 50


@pytest.mark.parametrize(
    ("count", "length", "chosen"),
    [(10, 4, [3, 4, 5, 6]), (4, 4, [0, 1, 2, 3]), (3, 7, [0, 1, 2, 0, 1, 2, 0])],
)
def test_the_middle_of_a_short_video_repeats_it(
    tmp_path: Path, count: int, length: int, chosen: list[int]
) -> None:
    path = tmp_path / "v.mp4"
    write_video(path, [grey(100)] * count, 1)
    frames = read_middle(path, Sampling(fps=1), length)
    assert [frame.time for frame in frames] == chosen


@pytest.mark.parametrize(
    ("declared", "times_decoded"),
    [(None, 2), (Fraction(0), 2), (Fraction(1), 2), (Fraction(9, 4), 2), (Fraction(2001, 1000), 1)],
)
def test_the_middle_is_found_whatever_duration_a_video_declares(
    ramp: Path, monkeypatch: pytest.MonkeyPatch, declared: Fraction | None, times_decoded: int
) -> None:
    sources = []

    def counted(source: str, threads: int) -> Iterator[decode.Timed]:
        sources.append(source)
        return decode.decoded(source, threads)

    monkeypatch.setattr(video, "decoded", counted)
    monkeypatch.setattr(video, "declared_seconds", lambda _: declared)
    frames = read_middle(ramp, Sampling(), 3)
    assert [round(frame.time * 25) for frame in frames] == [23, 24, 25]
    assert len(sources) == times_decoded


def test_an_empty_folder_of_images_has_no_middle(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="contains no image"):
        read_middle(tmp_path, Sampling(fps=5), 3)


def test_the_middle_of_a_video_at_its_own_rate_has_its_frames(ramp: Path) -> None:
    frames = read_middle(ramp, Sampling(), 4)
    assert [round(frame.time * 25) for frame in frames] == [23, 24, 25, 26]
    np.testing.assert_allclose(levels(frames), [112, 116, 120, 124], atol=CODEC_TOLERANCE)


def test_a_clip_too_large_for_memory_is_rejected(ramp: Path) -> None:
    with pytest.raises(UsageError, match="from 1 to 10000 frames"):
        read_middle(ramp, Sampling(), 10**9)


def test_a_failed_write_leaves_the_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"precious")

    def images() -> Iterator[Image]:
        yield grey(1)
        raise VideoError("the camera fell")

    with pytest.raises(VideoError, match="the camera fell"):
        write_video(path, images(), 5)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"precious"]
