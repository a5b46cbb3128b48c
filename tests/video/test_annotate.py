"""The classes drawn on a frame: readable on any picture, and within it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from movinet_convert.video.annotate import PANEL_HEIGHT, Captions, annotate, draw
from movinet_convert.video.decode import declared_seconds
from movinet_convert.video.frames import Image, Sampling, read_frames
from movinet_convert.video.predict import Guess, load_predictor
from tests.helpers.odd_videos import write_stamped

SIZES = [(160, 120), (320, 240), (1920, 1080), (360, 640)]  # width, height
SHORT = [Guess("feeding", 0, 0.62), Guess("lying", 1, 0.3), Guess("drinking", 2, 0.08)]
LONG = [
    Guess(f"{guess.label} {'and walking ' * 40}", guess.index, guess.probability) for guess in SHORT
]


def grounds(width: int, height: int) -> dict[str, Image]:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return {"white": np.full_like(noise, 255), "black": np.zeros_like(noise), "noise": noise}


def panel_of(ground: Image, drawn: Image) -> Image:
    """The smallest rectangle of what was drawn."""
    rows, columns = np.nonzero((ground != drawn).any(axis=2))
    return drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def luminance(pixels: Image) -> np.ndarray:
    """As the Web Content Accessibility Guidelines define it."""
    value = pixels / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    weighted: np.ndarray = linear @ np.array([0.2126, 0.7152, 0.0722])
    return weighted


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_text_scales_with_the_frame_and_leaves_most_of_it_free(width: int, height: int) -> None:
    ground = grounds(width, height)["white"]
    panel = panel_of(ground, draw(ground, SHORT))
    share = len(panel) / height
    assert 0.05 < share <= PANEL_HEIGHT
    white = luminance(panel) > 0.9
    line = max(round(1.3 * min(width, height) / 26), 16)
    assert len(panel) == line * min(3, int(PANEL_HEIGHT * height / line))
    letters = np.nonzero(white[:line].any(axis=1))[0]
    assert letters.max() - letters.min() >= 8, "letters of the first line, in pixels"


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", ["white", "black", "noise"])
def test_text_has_contrast_on_any_ground(name: str, width: int, height: int) -> None:
    ground = grounds(width, height)[name]
    bright = luminance(draw(ground, SHORT)[-14:, : width // 3])  # of the last line
    text = bright.max()
    background = np.quantile(bright, 0.5)
    assert (text + 0.05) / (background + 0.05) > 4.5


@pytest.mark.parametrize(("width", "height"), [*SIZES, (2, 2), (16, 8), (8, 400), (400, 8)])
@pytest.mark.parametrize("guesses", [SHORT, LONG, SHORT[:1]], ids=["short", "long", "one"])
def test_nothing_is_drawn_outside_of_the_frame(
    guesses: list[Guess], width: int, height: int
) -> None:
    ground = grounds(width, height)["noise"]
    before = ground.copy()
    drawn = draw(ground, guesses)
    assert drawn.shape == ground.shape
    assert drawn.dtype == np.uint8
    assert np.array_equal(ground, before), "the frame itself is not changed"
    free = height - max(int(PANEL_HEIGHT * height), min(height, 16))
    assert np.array_equal(drawn[:free], ground[:free])


def test_long_labels_end_before_the_percentage() -> None:
    ground = grounds(320, 240)["black"]
    drawn = luminance(draw(ground, [Guess("w" * 500, 0, 0.0)])) > 0.5
    columns = np.nonzero(drawn.any(axis=0))[0]
    gaps = np.diff(columns)
    assert columns.max() < 320
    assert gaps.max() >= 4, "a gap between the label and its percentage"


@pytest.mark.parametrize("label", ["", "\n", "a\nb", "\x1b[31mred", "犬\u202e", "w" * 100_000])
def test_any_label_can_be_drawn(label: str) -> None:
    ground = grounds(160, 120)["black"]
    assert draw(ground, [Guess(label, 0, 0.5)]).shape == ground.shape


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    "times",
    [[0, 0.04, 0.5, 1.5, 1.6, 3], [i / 25 for i in range(12)]],
    ids=["variable", "constant"],
)
def test_frames_keep_their_times(
    stream_file: Path, tmp_path: Path, times: list[float], suffix: str
) -> None:
    video, target = write_stamped(tmp_path / "v.mkv", times), tmp_path / f"a{suffix}"
    captions = Captions(load_predictor(stream_file))
    for moment in captions.predictor.moments(video):
        captions.add(moment)
    annotate(video, target, captions)
    seen = [frame.time for frame in read_frames(target, Sampling())]
    assert seen == pytest.approx(times, abs=0.002)
    declared = declared_seconds(target)
    assert declared is None or declared > times[-1], "the last frame is shown too"
