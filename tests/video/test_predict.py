"""Predictions over videos, and the output of the command."""

from __future__ import annotations

import json
import os
import re
import sys
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from movinet_convert import load_converted
from movinet_convert.cli.app import main
from movinet_convert.errors import UsageError
from movinet_convert.video.frames import Sampling, read_clip, read_frames
from movinet_convert.video.plot import MAX_POINTS, Timeline, distinct_names
from movinet_convert.video.predict import (
    Moment,
    Predictor,
    Probabilities,
    Verdict,
    load_predictor,
)
from movinet_convert.weights.file import write_weights
from movinet_convert.weights.header import Header
from tests.helpers.colour_model import LABELS, colour_model, write_colours
from tests.helpers.odd_videos import cut_off, largest_file

# Probabilities after a fused and an unfused network.
CLOSE = {"rtol": 0, "atol": 1e-3}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def lines(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def overall(moments: Iterable[Moment]) -> Probabilities:
    verdict = Verdict()
    for moment in moments:
        verdict.add(moment)
    return verdict.probabilities


@pytest.mark.parametrize("colour", LABELS)
def test_the_correct_class_is_predicted(stream_file: Path, tmp_path: Path, colour: str) -> None:
    video = write_colours(tmp_path / "one.mp4", colour)
    predictor = load_predictor(stream_file)
    assert predictor.top(overall(predictor.moments(video)))[0].label == colour


def test_streamed_predictions_end_with_that_of_the_whole_clip(
    stream_file: Path, red_then_blue: Path
) -> None:
    model = load_converted(stream_file)
    clip = read_clip(red_then_blue, Sampling.of(model.variant))
    with torch.inference_mode():
        whole = torch.softmax(model(clip[None]), 1)[0].numpy()
    *_, last = load_predictor(stream_file).moments(red_then_blue)
    np.testing.assert_allclose(last.probabilities, whole, **CLOSE)


def test_a_stream_predicts_after_every_frame(stream_file: Path, red_then_blue: Path) -> None:
    moments = list(load_predictor(stream_file).moments(red_then_blue))
    assert [moment.frames for moment in moments] == list(range(1, 21))
    assert [moment.start for moment in moments] == pytest.approx(np.arange(20) / 5)
    assert {moment.window for moment in moments} == {0}


def test_a_window_resets_the_stream(stream_file: Path, red_then_blue: Path) -> None:
    predictor = load_predictor(stream_file, window=2)
    moments = list(predictor.moments(red_then_blue))
    assert [moment.frames for moment in moments] == [*range(1, 11)] * 2
    leaders = [predictor.top(moment.probabilities, 1)[0].label for moment in moments]
    assert leaders == ["red"] * 10 + ["blue"] * 10


def test_a_base_model_classifies_consecutive_clips(base_file: Path, red_then_blue: Path) -> None:
    predictor = load_predictor(base_file, window=2)
    moments = list(predictor.moments(red_then_blue))
    assert [(moment.start, moment.end) for moment in moments] == [(0, 2), (2, 4)]
    assert [predictor.top(m.probabilities, 1)[0].label for m in moments] == ["red", "blue"]


def test_the_overall_prediction_weights_windows_by_their_frames(
    base_file: Path, red_then_blue: Path
) -> None:
    moments = list(load_predictor(base_file, window=3).moments(red_then_blue))
    assert [moment.frames for moment in moments] == [15, 5]
    first, second = (moment.probabilities for moment in moments)
    np.testing.assert_allclose(overall(moments), 0.75 * first + 0.25 * second, rtol=1e-5)


def test_a_rest_shorter_than_the_model_takes_is_left_out(
    base_file: Path, red_then_blue: Path
) -> None:
    predictor = load_predictor(base_file, window=3)
    *_, last = moments = list(predictor.moments(red_then_blue))
    shorter = replace(predictor, shortest=last.frames + 1)
    assert len(list(shorter.moments(red_then_blue))) == len(moments) - 1 == 1
    assert len(list(replace(shorter, window=100.0).moments(red_then_blue))) == 1


def test_a_base_model_uses_its_own_clip_length_by_default(base_file: Path) -> None:
    assert load_predictor(base_file).window_frames == 50


def test_predict_prints_the_class_names_of_the_file(stream_file: Path, red_then_blue: Path) -> None:
    result = run(stream_file, red_then_blue, "--seconds", 1)
    assert result.exit_code == 0, result.output
    first = result.stdout.splitlines()[1]
    assert "red" in first
    assert "100.0%" in first


def test_json_output_has_a_line_per_frame_and_an_overall_line(
    stream_file: Path, red_then_blue: Path
) -> None:
    *moments, verdict = lines(run(stream_file, red_then_blue, "--json", "--top", 2))
    assert len(moments) == 20
    assert moments[0]["top"][0]["label"] == "red"
    assert verdict["verdict"] is True
    assert verdict["seconds"] == pytest.approx(4)
    assert len(verdict["top"]) == 2


def test_all_videos_in_a_folder_are_predicted(stream_file: Path, tmp_path: Path) -> None:
    write_colours(tmp_path / "a.mp4", "green")
    write_colours(tmp_path / "b.mp4", "white")
    verdicts = [line for line in lines(run(stream_file, tmp_path, "--json")) if "verdict" in line]
    assert [verdict["top"][0]["label"] for verdict in verdicts] == ["green", "white"]


def test_a_broken_video_does_not_stop_the_others(
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


def test_plot_writes_an_image_with_a_row_per_video(
    stream_file: Path, red_then_blue: Path, tmp_path: Path
) -> None:
    image = tmp_path / "timeline.svg"
    other = write_colours(tmp_path / "other.mp4", "cyan")
    assert run(stream_file, red_then_blue, other, "--plot", image).exit_code == 0
    text = image.read_text("utf-8")
    for words in ("two.mp4", "other.mp4", "MoViNet a0-stream", "seconds"):
        assert f"<!-- {words} -->" in text


def test_annotate_draws_a_panel_onto_the_video(
    stream_file: Path, red_then_blue: Path, tmp_path: Path
) -> None:
    target = tmp_path / "annotated.mp4"
    assert run(stream_file, red_then_blue, "--annotate", target).exit_code == 0
    before = [frame.image for frame in read_frames(red_then_blue, Sampling())]
    after = [frame.image for frame in read_frames(target, Sampling())]
    assert len(after) == len(before)
    changed = np.abs(before[0].astype(int) - after[0]).mean(axis=2) > 40
    assert changed[-16:, :60].mean() > 0.9, "a panel in the lower left corner"
    assert changed[:40].mean() < 0.05, "and nothing above"


def test_annotating_a_camera_is_rejected(stream_file: Path, tmp_path: Path) -> None:
    result = run(stream_file, "camera", "--annotate", tmp_path / "out.mp4")
    assert result.exit_code == 2
    assert "name one VIDEO that is a file" in result.stderr


def test_missing_extra_error_says_what_to_install(
    stream_file: Path, red_then_blue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    result = run(stream_file, red_then_blue)
    assert result.exit_code == 1
    assert "needs the extra [video]; install it with " in result.stderr


@pytest.mark.parametrize("window", [0, -1, float("nan"), float("inf")])
def test_a_window_must_be_positive_and_finite(stream_file: Path, window: float) -> None:
    with pytest.raises(UsageError, match="positive number of seconds"):
        load_predictor(stream_file, window=window)


def test_a_window_too_large_for_memory_is_rejected(base_file: Path) -> None:
    with pytest.raises(UsageError, match="more than 10000 frames"):
        load_predictor(base_file, window=1e6)


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1"])
@pytest.mark.parametrize("option", ["--fps", "--window", "--seconds"])
def test_numeric_options_must_be_positive_and_finite(option: str, value: str) -> None:
    assert run("a0-stream", "x.mp4", option, value).exit_code == 2


def no_work(*_: object, **__: object) -> None:
    raise AssertionError("work began before the outputs were checked")


@pytest.mark.parametrize("spelling", ["same", "dotted", "link", "hard link"])
def test_overwriting_the_input_video_is_rejected_under_any_name(
    red_then_blue: Path, tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("movinet_convert.video.predict.load_predictor", no_work)
    (tmp_path / "sub").mkdir()
    video, target = tmp_path / "v.mp4", tmp_path / "other.mp4"
    video.write_bytes(red_then_blue.read_bytes())
    if spelling == "same":
        target = video
    elif spelling == "dotted":
        target = tmp_path / "sub" / ".." / "v.mp4"
    elif spelling == "link":
        target.symlink_to(video)
    else:
        target.hardlink_to(video)
    result = run("a0-stream", video, "--annotate", target)
    assert result.exit_code == 2
    assert "would be overwritten" in result.stderr
    assert video.read_bytes() == red_then_blue.read_bytes()


def test_overwriting_an_input_image_with_the_plot_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("movinet_convert.video.predict.load_predictor", no_work)
    image = tmp_path / "1.png"
    image.write_bytes(b"an image")
    result = run("a0-stream", tmp_path, "--plot", image)
    assert result.exit_code == 2
    assert image.read_bytes() == b"an image"


@pytest.mark.parametrize(
    ("option", "target", "fault"),
    [
        ("--plot", "x.mp4", "must end in .png"),
        ("--plot", "no/x.png", "There is no folder"),
        ("--plot", "folder.png", "is not a file"),
        ("--annotate", "x.webm", "must end in .mp4"),
        ("--annotate", "no/x.mp4", "There is no folder"),
        ("--annotate", "pipe.mp4", "is not a file"),
    ],
)
def test_outputs_are_checked_before_the_model_runs(
    tmp_path: Path, option: str, target: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("movinet_convert.video.predict.load_predictor", no_work)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    result = run("a0-stream", tmp_path / "v.mp4", option, tmp_path / target)
    assert result.exit_code == 2
    assert fault in result.stderr


def test_written_files_are_reported_outside_the_json_output(
    stream_file: Path, red_then_blue: Path, tmp_path: Path
) -> None:
    plot, video = tmp_path / "t.png", tmp_path / "a.mp4"
    result = run(stream_file, red_then_blue, "--json", "--plot", plot, "--annotate", video)
    assert result.exit_code == 0, result.output
    assert len(lines(result)) == 21
    assert f"Wrote {plot}" in result.stderr
    assert f"Wrote {video}" in result.stderr


@pytest.mark.parametrize(("option", "name"), [("--plot", "t.png"), ("--annotate", "a.mp4")])
def test_a_full_disk_leaves_existing_files_unchanged(
    stream_file: Path, red_then_blue: Path, tmp_path: Path, option: str, name: str
) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with largest_file(1000):
        result = run(stream_file, red_then_blue, option, tmp_path / name)
    assert result.exit_code == 1
    assert f"{name} cannot be written" in result.stderr
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


def test_logits_that_are_not_finite_are_an_error(red_then_blue: Path, tmp_path: Path) -> None:
    model = colour_model("a0-stream")
    torch.nn.init.constant_(model.classifier.output.weight, 3e38)
    path = tmp_path / "spoiled.safetensors"
    write_weights(path, model.state_dict(), Header.of_model(model, labels=LABELS))
    result = run(path, red_then_blue)
    assert result.exit_code == 1
    assert "not finite" in result.stderr
    assert str(red_then_blue) in result.stderr
    assert result.stdout == ""


def test_each_window_is_printed(stream_file: Path, red_then_blue: Path) -> None:
    result = run(stream_file, red_then_blue, "--window", 2, "--top", 1)
    name, first, second, *_ = result.stdout.splitlines()
    assert name == str(red_then_blue)
    assert first.split()[:6] == ["0.0", "-", "2.0", "s", "100.0%", "red"]
    assert second.split()[:4] == ["2.0", "-", "4.0", "s"]
    assert second.split()[5] == "blue"


def moment(index: int, window: int = 0) -> Moment:
    probabilities = np.eye(len(LABELS), dtype=np.float32)[index % 2]
    return Moment(index / 5, (index + 1) / 5, window, index + 1, probabilities)


def test_memory_is_bounded_for_a_camera_that_runs_for_days(
    stream_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Moment]] = []

    def moments(_self: Predictor, _source: str) -> Iterator[Moment]:
        for i in range(1000):
            seen = moment(i)
            made.append(weakref.ref(seen))
            yield seen
            assert sum(ref() is not None for ref in made) < 10

    monkeypatch.setattr(Predictor, "moments", moments)
    result = run(stream_file, "camera", "--json")
    assert result.exit_code == 0, result.output
    assert len(lines(result)) == 1001


def test_a_timeline_of_days_is_subsampled() -> None:
    timeline = Timeline("camera")
    for i in range(5 * MAX_POINTS):
        timeline.add(moment(i))
    assert MAX_POINTS / 2 <= len(timeline.points) <= MAX_POINTS
    steps = np.diff([point.start for point in timeline.points])
    np.testing.assert_allclose(steps, steps[0])
    assert timeline.peak[:2].tolist() == [1, 1]


def test_ctrl_c_ends_the_run_with_a_prediction_marked_as_cut_short(
    stream_file: Path, red_then_blue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_self: Predictor, _source: str) -> Iterator[Moment]:
        yield moment(0)
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "moments", stopped)
    result = run(stream_file, red_then_blue, tmp_path / "next.mp4", "--json")
    assert result.exit_code == 130
    _, verdict = lines(result)
    assert verdict["cut"] == "stopped by Ctrl-C"
    assert "cut short: stopped by Ctrl-C" in run(stream_file, red_then_blue).stdout
    assert run(stream_file, "camera").exit_code == 0, "a camera has no other end"


def test_ctrl_c_while_the_video_is_drawn_stops_without_a_file(
    stream_file: Path, red_then_blue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("movinet_convert.video.annotate.draw", stopped)
    result = run(stream_file, red_then_blue, "--annotate", tmp_path / "out.mp4")
    assert result.exit_code == 130
    assert "nothing is left half-written" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_video_gets_a_warning_and_a_prediction_marked_as_cut_short(
    stream_file: Path, red_then_blue: Path, tmp_path: Path
) -> None:
    broken = cut_off(red_then_blue, tmp_path / "cut.mp4", 0.8)
    result = run(stream_file, broken, "--json", "--annotate", tmp_path / "annotated.mp4")
    assert result.exit_code == 0, result.output
    *moments, verdict = lines(result)
    assert 0 < len(moments) < 20
    reason = str(verdict["cut"])
    assert re.search(r"cut\.mp4 ends after \d+ frames, at \d\.\d s of 4\.0 s", reason)
    assert f"Warning: {reason}" in result.stderr
    assert (tmp_path / "annotated.mp4").exists()
    text = run(stream_file, broken)
    assert text.output.count("ends after") == 1, "the reason is given once"
    assert text.stdout.splitlines()[0].endswith(" s, cut short")


def test_plot_titles_distinguish_equal_file_names() -> None:
    assert distinct_names(["a/x/v.mp4", "a/y/v.mp4"]) == ["x/v.mp4", "y/v.mp4"]
    assert distinct_names(["a/x/v.mp4", "camera"]) == ["v.mp4", "camera"]
    assert distinct_names(["a/v.mp4", "v.mp4"]) == ["a/v.mp4", "v.mp4"]


def test_a_plot_of_too_many_videos_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("movinet_convert.video.predict.load_predictor", no_work)
    videos = [f"{i}.mp4" for i in range(101)]
    result = run("a0-stream", *videos, "--plot", tmp_path / "x.png")
    assert result.exit_code == 2
    assert "more than 100" in result.stderr


def test_labels_come_from_a_file_which_the_output_suggests_if_missing(
    red_then_blue: Path, tmp_path: Path
) -> None:
    model = colour_model("a0-stream")
    path = tmp_path / "unnamed.safetensors"
    write_weights(path, model.state_dict(), Header.of_model(model))
    result = run(path, red_then_blue)
    assert result.stderr.count("--labels FILE") == 1
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"la {label}" for label in LABELS))
    result = run(path, red_then_blue, "--labels", names)
    assert "la red" in result.stdout
    assert "--labels" not in result.stderr
    names.write_text("rouge\n")
    result = run(path, red_then_blue, "--labels", names)
    assert result.exit_code == 2
    assert "names 1 classes, but the model has 7" in result.stderr
