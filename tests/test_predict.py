"""What a model says about videos, and how the command shows it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from colour_model import LABELS, write_colour_model, write_colours

from movinet_convert import load_converted
from movinet_convert.cli import main
from movinet_convert.errors import UsageError
from movinet_convert.predict import load_predictor, overall
from movinet_convert.video import Sampling, read_clip, read_frames

# Probabilities after a fused and an unfused network.
CLOSE = {"rtol": 0, "atol": 1e-3}


@pytest.fixture(scope="module")
def stream_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_model(tmp_path_factory.mktemp("m") / "s.safetensors", "a0-stream")


@pytest.fixture(scope="module")
def base_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_model(tmp_path_factory.mktemp("m") / "b.safetensors", "a0-base")


@pytest.fixture(scope="module")
def red_then_blue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("v") / "two.mp4", "red", "blue", seconds=2)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def lines(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("colour", LABELS)
def test_the_right_class_leads(stream_file: Path, tmp_path: Path, colour: str) -> None:
    video = write_colours(tmp_path / "one.mp4", colour)
    predictor = load_predictor(stream_file)
    assert predictor.top(overall(predictor.moments(video)))[0].label == colour


def test_a_stream_ends_where_the_whole_clip_does(stream_file: Path, red_then_blue: Path) -> None:
    model = load_converted(stream_file)
    clip = read_clip(red_then_blue, Sampling.of(model.variant))
    with torch.inference_mode():
        whole = torch.softmax(model(clip[None]), 1)[0].numpy()
    *_, last = load_predictor(stream_file).moments(red_then_blue)
    np.testing.assert_allclose(last.probabilities, whole, **CLOSE)


def test_a_stream_has_a_moment_for_every_frame(stream_file: Path, red_then_blue: Path) -> None:
    moments = list(load_predictor(stream_file).moments(red_then_blue))
    assert [moment.frames for moment in moments] == list(range(1, 21))
    assert [moment.start for moment in moments] == pytest.approx(np.arange(20) / 5)
    assert {moment.window for moment in moments} == {0}


def test_a_window_starts_the_stream_anew(stream_file: Path, red_then_blue: Path) -> None:
    predictor = load_predictor(stream_file, window=2)
    moments = list(predictor.moments(red_then_blue))
    assert [moment.frames for moment in moments] == [*range(1, 11)] * 2
    leaders = [predictor.top(moment.probabilities, 1)[0].label for moment in moments]
    assert leaders == ["red"] * 10 + ["blue"] * 10


def test_a_base_model_judges_clip_after_clip(base_file: Path, red_then_blue: Path) -> None:
    predictor = load_predictor(base_file, window=2)
    moments = list(predictor.moments(red_then_blue))
    assert [(moment.start, moment.end) for moment in moments] == [(0, 2), (2, 4)]
    assert [predictor.top(m.probabilities, 1)[0].label for m in moments] == ["red", "blue"]


def test_the_verdict_weighs_windows_by_their_frames(base_file: Path, red_then_blue: Path) -> None:
    moments = list(load_predictor(base_file, window=3).moments(red_then_blue))
    assert [moment.frames for moment in moments] == [15, 5]
    first, second = (moment.probabilities for moment in moments)
    np.testing.assert_allclose(overall(moments), 0.75 * first + 0.25 * second, rtol=1e-5)


def test_a_base_model_without_a_window_takes_its_own_clip(base_file: Path) -> None:
    assert load_predictor(base_file).window_frames == 50


def test_the_command_names_the_classes_of_the_file(stream_file: Path, red_then_blue: Path) -> None:
    result = run(stream_file, red_then_blue, "--seconds", 1)
    assert result.exit_code == 0, result.output
    first = result.stdout.splitlines()[1]
    assert "red" in first
    assert "100.0%" in first


def test_json_is_a_line_for_every_frame_and_a_verdict(
    stream_file: Path, red_then_blue: Path
) -> None:
    *moments, verdict = lines(run(stream_file, red_then_blue, "--json", "--top", 2))
    assert len(moments) == 20
    assert moments[0]["top"][0]["label"] == "red"
    assert verdict["verdict"] is True
    assert verdict["seconds"] == pytest.approx(4)
    assert len(verdict["top"]) == 2


def test_a_folder_of_videos_is_each_of_them(stream_file: Path, tmp_path: Path) -> None:
    write_colours(tmp_path / "a.mp4", "green")
    write_colours(tmp_path / "b.mp4", "white")
    verdicts = [line for line in lines(run(stream_file, tmp_path, "--json")) if "verdict" in line]
    assert [verdict["top"][0]["label"] for verdict in verdicts] == ["green", "white"]


def test_one_broken_video_fails_alone(
    stream_file: Path, red_then_blue: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    result = run(stream_file, broken, red_then_blue, "--json")
    assert result.exit_code == 1
    error, *_, verdict = lines(result)
    assert "broken.mp4" in error["error"]
    assert verdict["video"] == str(red_then_blue)
    assert "Traceback" not in result.stderr


def test_plot_writes_a_picture_with_a_row_for_each_video(
    stream_file: Path, red_then_blue: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "timeline.svg"
    other = write_colours(tmp_path / "other.mp4", "cyan")
    assert run(stream_file, red_then_blue, other, "--plot", picture).exit_code == 0
    text = picture.read_text("utf-8")
    for words in ("two.mp4", "other.mp4", "MoViNet a0-stream", "seconds"):
        assert f"<!-- {words} -->" in text


def test_annotate_writes_the_video_with_a_panel(
    stream_file: Path, red_then_blue: Path, tmp_path: Path
) -> None:
    target = tmp_path / "annotated.mp4"
    assert run(stream_file, red_then_blue, "--annotate", target).exit_code == 0
    before = [frame.image for frame in read_frames(red_then_blue, Sampling())]
    after = [frame.image for frame in read_frames(target, Sampling())]
    assert len(after) == len(before)
    changed = np.abs(before[0].astype(int) - after[0]).mean(axis=2) > 40
    assert changed[-40:, :60].mean() > 0.5, "a panel in the lower left corner"
    assert changed[:40].mean() < 0.05, "and nothing above"


def test_annotating_a_camera_is_refused(stream_file: Path, tmp_path: Path) -> None:
    result = run(stream_file, "camera", "--annotate", tmp_path / "out.mp4")
    assert result.exit_code == 2
    assert "name one VIDEO that is a file" in result.stderr


def test_without_the_extra_the_error_says_what_to_install(
    stream_file: Path, red_then_blue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    result = run(stream_file, red_then_blue)
    assert result.exit_code == 1
    assert "pip install 'movinet-convert[video]'" in result.stderr


def test_a_window_of_nothing_is_refused(stream_file: Path) -> None:
    with pytest.raises(UsageError, match="above 0 seconds"):
        load_predictor(stream_file, window=0)
