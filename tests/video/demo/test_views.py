"""What the page shows of a video equals what ``predict`` prints; errors are sentences on it."""

from __future__ import annotations

import json
import re
import threading
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from movinet_convert.cli.app import main
from movinet_convert.errors import UsageError
from movinet_convert.video.demo import drawing, handlers
from movinet_convert.video.demo.models import RANDOM, UNKNOWN, Loaded, Models, in_store, load
from movinet_convert.video.demo.watch import View, watch
from movinet_convert.video.pixels import Image
from movinet_convert.video.predict import Moment, Predictor
from movinet_convert.weights.file import write_weights
from movinet_convert.weights.header import Header
from tests.helpers.colour_model import LABELS, colour_model, image, write_colours
from tests.helpers.odd_videos import cut_off

LIMIT = 600.0
ROW = re.compile(r'mv-name">([^<]*)</span><span class="mv-share">([^<]*)<')


def rows(html: str) -> list[tuple[str, str]]:
    """The classes and probabilities that the bars show."""
    return [(unescape(name), share) for name, share in ROW.findall(html)]


def printed(*arguments: object) -> list[tuple[str, str]]:
    """Those that ``predict`` prints for the whole video."""
    result = CliRunner().invoke(main, ["predict", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    found = re.findall(r"^ *(\d+\.\d%)  (\w+)", result.stdout, re.MULTILINE)
    return [(name, share) for share, name in found[-5:]]


@pytest.mark.parametrize(
    ("network", "fps", "window", "options"),
    [
        ("s", 0, 0, ()),
        ("s", 3, 0, ("--fps", 3)),
        ("s", 0, 1, ("--window", 1)),
        ("b", 0, 0, ()),
        ("b", 0, 2, ("--window", 2)),
    ],
)
def test_the_page_shows_what_predict_prints(
    models: Models,
    red_then_blue: Path,
    network: str,
    fps: float,
    window: float,
    options: tuple[object],
) -> None:
    *_, (prediction, timeline) = handlers.classified(models, LIMIT)(
        str(red_then_blue), network, fps, window
    )
    expected = printed(models.titles[network], red_then_blue, *options)
    assert len(expected) == 5
    assert rows(prediction) == expected
    assert "whole video, 4.0 s" in prediction
    assert "ms</b> per frame" in prediction
    assert {"red", "blue"} <= set(LABELS) & set(re.findall(r">(\w+)</span>", timeline))


def test_the_probabilities_follow_the_video_when_it_is_played(
    models: Models, red_then_blue: Path
) -> None:
    *_, (_, timeline) = handlers.classified(models, LIMIT)(str(red_then_blue), "s", 0, 1)
    played = json.loads(unescape(re.findall(r'data-played="([^"]*)"', timeline)[0]))
    assert len(played["moments"]) == 20
    best = [played["classes"][str(top[0][0])][0] for _, top in played["moments"]]
    assert best == ["red"] * 10 + ["blue"] * 10


def test_the_page_shows_predictions_while_a_long_video_is_read(
    stream: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("movinet_convert.video.demo.watch.REFRESH_SECONDS", -1.0)
    video = write_colours(tmp_path / "v.mp4", "red", "blue", seconds=1)
    *running, last = list(watch(stream, video, LIMIT))
    assert [view.heading for view in running[:2]] == ["at 0.2 s", "at 0.4 s"]
    assert len(running) == 10
    assert not any(view.complete for view in running)
    assert last.complete


def test_only_the_allowed_seconds_are_read(stream: Predictor, red_then_blue: Path) -> None:
    *_, last = watch(stream, red_then_blue, 1.0)
    assert last.heading == "whole video, 1.0 s, cut short"
    assert stream.top(last.probabilities, 1)[0].label == "red"
    assert last.note is not None
    assert "first 1 s" in last.note


def test_a_truncated_video_has_a_prediction_and_a_note(
    models: Models, red_then_blue: Path, tmp_path: Path
) -> None:
    damaged = cut_off(red_then_blue, tmp_path / "cut.mp4", 0.8)
    *_, (prediction, _) = handlers.classified(models, LIMIT)(str(damaged), "s", 0, 0)
    assert rows(prediction)[0][0] == "red"
    assert "cut short" in prediction
    assert "mv-caution" in prediction


def test_a_file_that_is_no_video_is_a_sentence_on_the_page(models: Models, tmp_path: Path) -> None:
    broken = tmp_path / "a<b>.mp4"
    broken.write_text("not a video")
    *_, (prediction, timeline) = handlers.classified(models, LIMIT)(str(broken), "s", 0, 0)
    assert "mv-error" in prediction
    assert "a&lt;b&gt;.mp4 cannot be read as a video" in prediction
    assert str(tmp_path) not in prediction
    assert timeline == ""


def test_a_clip_that_is_too_long_is_a_sentence_on_the_page(models: Models) -> None:
    shown, _ = handlers.described(models)("b", 30, 30)
    assert "clips of 900 frames" in shown
    live, prediction, _ = handlers.streamed(models)(image("red"), None, "b", 30, 30)
    assert live is None
    assert "clips of 900 frames" in prediction


def test_a_webcam_session_goes_in_and_comes_out(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(np.arange(0, 10, 0.1))
    monkeypatch.setattr(handlers, "monotonic", lambda: float(next(times)))
    push = handlers.streamed(models)
    live, prediction, _ = push(image("red"), None, "s", 0, 0)
    assert "mv-row" not in prediction
    for _ in range(5):
        live, prediction, timeline = push(image("red"), live, "s", 0, 0)
    assert rows(prediction)[0][0] == "red"
    assert "<svg" in timeline
    live, prediction, _ = push(image("red"), live, "b", 0, 1)
    assert "needs 5 frames; 0 are there" in prediction


def test_the_time_that_a_network_takes_is_no_gap(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 0.0, 0.3, 10.0, 10.1, 10.2])  # before and after each call
    monkeypatch.setattr(handlers, "monotonic", lambda: next(times))
    push, live = handlers.streamed(models), None
    for _ in range(3):
        live, prediction, _ = push(image("red"), live, "s", 0, 0)
    assert "were skipped" in prediction
    assert rows(prediction)[0][0] == "red"


def test_a_picture_that_cannot_be_scaled_is_a_sentence_on_the_page(models: Models) -> None:
    narrow: Image = np.zeros((40_000, 1, 3), np.uint8)
    live, prediction, _ = handlers.streamed(models)(narrow, None, "s", 0, 0)
    assert live is None
    assert "too narrow" in prediction


def test_labels_are_escaped(stream: Predictor) -> None:
    names = ("<script>alert(1)</script>", *LABELS[1:])
    predictor = Predictor(stream.model, names, stream.sampling)
    probabilities = np.eye(len(names), dtype=np.float32)[0]
    moments = [Moment(0.0, 0.2, 0, 1, probabilities)]
    view = View("now", predictor, probabilities, moments, 0.2, [0, 1], [], complete=True)
    html = drawing.bars(view) + drawing.timeline(view) + drawing.notice("<b>")
    assert "<script" not in html
    assert "<b>" not in html.replace("<b>0.0 ms</b>", "")


def test_classes_of_a_timeline_have_different_colours_that_last() -> None:
    before, after = drawing.colour_names([0, 7, 14, 3, 2]), drawing.colour_names([0, 7, 14, 3, 6])
    assert len(set(before.values())) == 5
    assert all(before[index] == after[index] for index in (0, 7, 14, 3))


def test_a_network_is_loaded_once_for_all_sessions(stream: Predictor) -> None:
    calls: list[str] = []

    def slow(name: str) -> Loaded:
        calls.append(name)
        return Loaded(stream)

    models = Models(["folder/a.safetensors", "b.onnx"], slow)
    threads = [threading.Thread(target=models.get, args=("a",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["folder/a.safetensors"]
    with pytest.raises(UsageError, match="no network 'c'"):
        models.get("c")


def test_random_weights_are_marked(tmp_path: Path, stream: Predictor) -> None:
    model = colour_model("a0-stream")
    header = Header.of_model(model).model_copy(update={"source": "synthetic"})
    path = tmp_path / "random.safetensors"
    write_weights(path, model.state_dict(), header)
    models = Models([str(path)], load)
    with pytest.warns(match="random synthetic weights"):
        models.get("random")
    caution, network = handlers.described(models)("random", 0, 0)
    assert RANDOM in caution
    assert "random · a0-stream · 7 classes · 172 x 172 pixels · 5 frames per second" in network
    assert load("x.onnx", exported=_Exported(stream)).caution == UNKNOWN


class _Exported:
    """An exported file, as far as it is loaded."""

    def __init__(self, predictor: Predictor) -> None:
        self.variant, self.settings = predictor.model.variant, predictor.model.settings
        self.labels, self.num_classes = LABELS, len(LABELS)
        self.size, self.shortest, self.call_frames = (172, 172), 1, 1


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no weights; convert some with"):
        in_store(str(tmp_path))
