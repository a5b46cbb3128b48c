"""Preprocessing compared with that of the official evaluation, pixel by pixel.

The reference is ``process_image`` of official/vision/dataloaders/video_input.py as it runs in
evaluation: it samples encoded images, decodes, resizes, crops and scales them to [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from movinet_convert.model.transforms import ClipTransform
from movinet_convert.parity.official import import_tensorflow
from movinet_convert.video.encode import write_video
from movinet_convert.video.frames import (
    Sampling,
    read_frames,
    read_middle,
    to_tensor,
)

RESIZE, SIZE = 64, 56
# Height and width: landscape, portrait, far larger, odd, smaller, already that size.
SIZES = [(90, 123), (200, 80), (1080, 1440), (121, 163), (48, 35), (64, 99), (64, 64)]
STORED_FPS = 25  # of a video whose every nth frame the official evaluation takes
Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def official() -> SimpleNamespace:
    tf = import_tensorflow("This test").tf
    from official.vision.dataloaders import video_input
    from official.vision.ops import preprocess_ops_3d

    def clip(frames: Any) -> torch.Tensor:
        """Of images (T, H, W, 3), or of the contents of image files: (3, T, H, W)."""
        made = video_input.process_image(
            tf.constant(frames),
            is_training=False,
            num_frames=len(frames),
            min_resize=RESIZE,
            crop_size=SIZE,
        )
        return torch.from_numpy(made.numpy()).permute(3, 0, 1, 2)

    def indices(count: int, length: int, stride: int) -> list[int]:
        return (
            preprocess_ops_3d.sample_sequence(tf.range(count), length, random=False, stride=stride)
            .numpy()
            .tolist()
        )

    return SimpleNamespace(clip=clip, indices=indices, decode=tf.io.decode_jpeg)


def smooth(height: int, width: int) -> Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(6 * x / width + k) * np.cos(5 * y / height + 2 * k) for k in range(3)]
    return (127 + 100 * np.stack(waves, -1)).astype(np.uint8)


def noisy(height: int, width: int) -> Image:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def photo(height: int, width: int) -> Image:
    """A random picture with the spectrum of photographs, 1/f."""
    noise = np.random.default_rng(width).normal(size=(height, width, 3))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    spectrum = np.fft.fft2(noise, axes=(0, 1)) / (frequency + 1 / width)[..., None]
    picture = np.fft.ifft2(spectrum, axes=(0, 1)).real
    return (127 + 50 * picture / picture.std()).clip(0, 255).astype(np.uint8)


def differences(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[float, float]:
    """The largest and the mean difference of a value, in levels of 255."""
    difference = 255 * (ours - theirs).abs()
    return difference.max().item(), difference.mean().item()


@pytest.mark.parametrize("picture", [smooth, noisy, photo])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_frames_are_resized_and_cropped_as_in_the_official_evaluation(
    official: SimpleNamespace, picture: Callable[..., Image], size: tuple[int, int]
) -> None:
    frames = picture(*size)[None]
    ours = ClipTransform(RESIZE, SIZE)(torch.from_numpy(frames).permute(0, 3, 1, 2))
    largest, mean = differences(ours, official.clip(frames))
    assert largest < 1.001
    assert mean < 0.01


@pytest.mark.parametrize("picture", [smooth, noisy, photo])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_images_are_read_as_in_the_official_evaluation(
    official: SimpleNamespace, tmp_path: Path, picture: Callable[..., Image], size: tuple[int, int]
) -> None:
    from PIL import Image as Pillow

    Pillow.fromarray(picture(*size)).save(tmp_path / "0.png")
    ours = to_tensor(list(read_frames(tmp_path, Sampling(1, RESIZE, SIZE))))
    largest, mean = differences(ours, official.clip([(tmp_path / "0.png").read_bytes()]))
    assert largest < 1.001
    assert mean < 0.01


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("picture", [smooth, photo])
def test_jpeg_images_are_decoded_as_by_the_accurate_method(
    official: SimpleNamespace, tmp_path: Path, picture: Callable[..., Image], subsampling: str
) -> None:
    from PIL import Image as Pillow

    path = tmp_path / "0.jpg"
    Pillow.fromarray(picture(240, 320)).save(path, quality=95, subsampling=subsampling)
    (frame,) = read_frames(tmp_path, Sampling())
    ours = torch.from_numpy(frame.image) / 255
    # Official images are decoded by the fast method, whose errors Pillow's decoder does not have.
    for method, most, on_average in (("INTEGER_ACCURATE", 3, 0.5), ("INTEGER_FAST", 12, 1.7)):
        decoded = official.decode(path.read_bytes(), channels=3, dct_method=method).numpy()
        largest, mean = differences(ours, torch.from_numpy(decoded) / 255)
        assert largest < most + 0.001, method
        assert mean < on_average, method


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 7, 47, 50, 53, 54, 58])
def test_the_frames_of_the_middle_are_those_of_the_official_evaluation(
    official: SimpleNamespace, tmp_path: Path, count: int, stride: int
) -> None:
    path = tmp_path / "v.mp4"
    levels = [np.full((32, 32, 3), 4 * i + 16, np.uint8) for i in range(count)]
    write_video(path, levels, STORED_FPS)
    frames = read_middle(path, Sampling(fps=STORED_FPS / stride), 10)
    expected = official.indices(count, 10, stride)
    assert [round(frame.time * STORED_FPS) for frame in frames] == expected
    np.testing.assert_allclose(
        [frame.image.mean() for frame in frames], [4 * i + 16 for i in expected], atol=1.9
    )
