"""A webcam, picture by picture: the same predictions as of a video, and nothing that grows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from movinet_convert.video.demo import live as live_module
from movinet_convert.video.demo.live import (
    LONGEST_GAP,
    MOST_LATE,
    Live,
    advance,
    live_predictor,
)
from movinet_convert.video.demo.watch import live_view
from movinet_convert.video.frames import Frame, Sampling
from movinet_convert.video.pixels import Image, fitted
from movinet_convert.video.predict import Moment, Position, Predictor
from tests.helpers.colour_model import image

PICTURES_PER_SECOND = 30
Timed = tuple[float, Image]


def pictures(seconds: float, colours: tuple[str, ...] = ("red", "blue", "green")) -> list[Timed]:
    """A colour after another, half a second each, with noise that tells the pictures apart."""
    noise = np.random.default_rng(0)
    found = []
    for number in range(round(seconds * PICTURES_PER_SECOND)):
        colour = colours[number // (PICTURES_PER_SECOND // 2) % len(colours)]
        plain = image(colour).astype(int)
        shown = np.clip(plain + noise.integers(-9, 10, plain.shape), 0, 255).astype(np.uint8)
        # A little before the times of frames, where rounding would decide.
        found.append((max(number - 0.1, 0) / PICTURES_PER_SECOND, shown))
    return found


def pushed(predictor: Predictor, timed: Iterable[Timed], start: float = 1000.0) -> Live:
    live = None
    for time, picture in timed:
        live = advance(live, predictor, picture, start + time)
    assert live is not None
    return live


def in_folder(folder: Path, timed: Iterable[Timed], predictor: Predictor) -> list[Moment]:
    """What a video of the pictures that are shown at k / fps gives; lossless."""
    kept = list(timed)
    for number in range(math.ceil(kept[-1][0] * predictor.fps)):
        shown = [picture for time, picture in kept if time <= number / predictor.fps]
        PIL.Image.fromarray(shown[-1]).save(folder / f"{number}.png")
    return list(predictor.moments(folder))


def assert_same(found: Iterable[Moment], expected: Iterable[Moment]) -> None:
    """Another picture changes a probability by 2e-4 or more, several frames a call by 3e-6."""
    for one, other in zip(found, expected, strict=True):
        assert one.start == pytest.approx(other.start)
        assert (one.window, one.frames) == (other.window, other.frames)
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=2e-5)


def test_a_webcam_gives_what_a_video_of_its_pictures_gives(
    stream: Predictor, tmp_path: Path
) -> None:
    predictor = replace(stream, window=1.0)
    live = pushed(predictor, pictures(2.4))
    expected = in_folder(tmp_path, pictures(2.4), predictor)
    assert [moment.frames for moment in expected] == [*range(1, 6), *range(1, 6), 1, 2]
    assert_same(live.history, expected)


def test_a_base_network_takes_clip_after_clip(base: Predictor, tmp_path: Path) -> None:
    live = pushed(base, pictures(2.4))
    expected = in_folder(tmp_path, pictures(2.4), base)
    assert_same(live.history, expected[:2])
    assert len(live.waiting) == 2  # of the third, which ends with a file


def test_a_file_of_several_frames_a_call_waits_for_them(stream: Predictor, tmp_path: Path) -> None:
    predictor = replace(stream, call_frames=2, shortest=2)
    live = pushed(predictor, pictures(1.3))
    assert [moment.frames for moment in live.history] == [2, 4, 6]
    assert len(live.waiting) == 1
    assert_same(live.history, in_folder(tmp_path, pictures(1.3), predictor))


def test_pictures_that_come_irregularly_are_sampled_by_their_times(stream: Predictor) -> None:
    irregular = [(0.0, "red"), (0.05, "blue"), (0.39, "green"), (0.41, "red"), (0.95, "blue")]
    live = pushed(stream, [(time, image(colour)) for time, colour in irregular])
    # Shown at 0, 0.2, 0.4, 0.6 and 0.8 s:
    steps = ["red", "blue", "green", "red", "red"]
    expected, position = [], Position()
    resize, size = stream.sampling.resize, stream.sampling.size
    for number, colour in enumerate(steps):
        frame = Frame(number / 5, fitted(image(colour), resize, size, "the test"))
        moments, position = stream.step([frame], position, "the test")
        expected += moments
    assert_same(live.history, expected)


def test_two_webcams_do_not_mix(stream: Predictor) -> None:
    red, blue = pictures(1.2, ("red",)), pictures(1.2, ("blue",))
    left = right = None
    for (time, one), (_, other) in zip(red, blue, strict=True):
        left = advance(left, stream, one, time)
        right = advance(right, stream, other, time)
    assert left is not None
    assert right is not None
    assert_same(left.history, pushed(stream, red).history)
    assert_same(right.history, pushed(stream, blue).history)


def test_a_session_is_a_value(stream: Predictor) -> None:
    before = pushed(stream, pictures(0.8))
    once = before.push(image("green"), before.last + 0.3)
    again = before.push(image("green"), before.last + 0.3)
    assert_same(once.history, again.history)
    assert len(before.history) < len(once.history)


def test_another_network_or_a_long_gap_starts_a_new_stream(stream: Predictor) -> None:
    live = pushed(stream, pictures(0.8))
    assert advance(live, replace(stream, window=2.0), image("red"), live.last + 0.1).history == ()
    assert advance(live, stream, image("red"), live.last + LONGEST_GAP + 0.1).history == ()
    assert advance(live, stream, image("red"), live.last - 5).history == ()
    assert advance(live, stream, image("red"), live.last + 0.1).history != ()


def test_a_network_that_is_too_slow_skips_frames_and_says_so(stream: Predictor) -> None:
    live = pushed(stream, [(0.0, image("red")), (2.9, image("red"))])
    assert len(live.history) == MOST_LATE * stream.fps
    assert live.skipped == 10
    view = live_view(live)
    assert view is not None
    assert view.note is not None
    assert "10 of 15 were skipped" in view.note


def test_a_long_session_does_not_grow(stream: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "SECONDS_KEPT", 8.0)
    predictor = replace(stream, sampling=replace(stream.sampling, fps=1.0), window=5.0)
    live = pushed(predictor, ((float(second), image("red")) for second in range(20)))
    assert [moment.start for moment in live.history] == list(range(11, 19))
    assert live.waiting == ()


def test_by_default_a_webcam_has_windows_of_a_clip(stream: Predictor, base: Predictor) -> None:
    assert live_predictor(stream).window == 10  # 50 frames at 5 fps
    assert live_predictor(base) is base
    chosen = replace(stream, window=2.0)
    assert live_predictor(chosen) is chosen
    several = replace(stream, call_frames=8, sampling=Sampling(fps=4, resize=200, size=172))
    assert live_predictor(several).window_frames == 40


def test_nothing_is_shown_before_the_first_prediction(stream: Predictor) -> None:
    assert live_view(Live.start(stream, image("red"), 0.0)) is None
