"""What people see of a prediction stays readable: long labels, other scripts, many videos."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from movinet_convert.cli import watch
from movinet_convert.cli.app import main
from movinet_convert.errors import MovinetWarning
from movinet_convert.video import plot
from movinet_convert.video.annotate import _font, _wrapped, draw
from movinet_convert.video.clips import find_videos
from movinet_convert.video.fonts import font_file, missing_characters
from movinet_convert.video.predict import Guess, Moment
from tests.helpers.colour_model import LABELS, image

LONG = "a person who feeds cattle in a stable while it rains outside and inside"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


@pytest.fixture
def long_labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{LONG} {label}\n" for label in LABELS))
    return path


@pytest.mark.parametrize("pixels", [120, 200, 400])
def test_a_label_on_a_video_is_wrapped(pixels: int) -> None:
    font = _font(font_file(LONG), 12)
    wrapped = _wrapped(LONG, font, pixels, 10)
    assert " ".join(wrapped) == LONG
    assert all(font.getlength(line) <= pixels for line in wrapped)
    assert _wrapped(LONG, font, 120, 2)[1].endswith("…")
    unspaced = "x" * 60
    assert "".join(_wrapped(unspaced, font, pixels, 10)) == unspaced


def test_a_wrapped_label_takes_several_lines_of_the_panel() -> None:
    ground = np.zeros((480, 640, 3), np.uint8)
    heights = [
        int((draw(ground, [Guess(label, 0, 1.0)]) != ground).any(axis=(1, 2)).sum())
        for label in ("short", LONG)
    ]
    assert heights[1] >= 2 * heights[0]


@pytest.mark.parametrize("text", ["Größe", "Привет мир", "ελληνικά"])
def test_labels_in_other_scripts_have_a_font(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        font_file(text)
    assert missing_characters(text) == ""


def test_a_character_without_a_font_is_named() -> None:
    with pytest.warns(MovinetWarning, match=r"No installed font has '.+' of the label"):
        font_file("x \ue000")


def probabilities(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def timeline(name: str, *moments: np.ndarray) -> plot.Timeline:
    made = plot.Timeline(name)
    for i, values in enumerate(moments):
        made.add(Moment(float(i), i + 1.0, 0, i + 1, values))
    return made


def test_a_class_has_one_colour_in_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[dict[str, tuple[Any, Any]]] = []
    original = plot._draw

    def recording(ax: Any, *arguments: Any) -> None:
        original(ax, *arguments)
        lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
        looks.append(
            {
                line.get_label().split()[0]: (line.get_color(), line.get_linestyle())
                for line in lines
            }
        )

    monkeypatch.setattr(plot, "_draw", recording)
    count = 25
    labels = [f"class-{i}" for i in range(count)]
    rows = [
        timeline(f"{i}.mp4", np.roll(np.linspace(0.01, 0.9, count, dtype=np.float32), 5 * i))
        for i in range(5)
    ]
    plot.plot_timelines(tmp_path / "x.png", rows, labels, "title")
    together: dict[str, tuple[Any, Any]] = {}
    for row in looks:
        assert len(row) == plot.CLASSES_SHOWN
        for label, look in row.items():
            assert together.setdefault(label, look) == look
    assert len(set(together.values())) == len(together) > len(plot.COLOURS)


def test_the_legend_has_the_top_classes_of_the_whole_video_first() -> None:
    steady = probabilities(0.5, 0.2, 0.1, 0.08, 0.07, 0.02, 0.03)
    flash = probabilities(0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.1)
    made = timeline("x", flash, steady)  # the verdict of a stream is that of its last moment
    assert made.leaders() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("width", [40, 80])
def test_percentages_stay_visible_beside_long_labels(
    width: int,
    stream_file: Path,
    red_then_blue: Path,
    long_labels: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def terminal(err: bool = False) -> Console:
        return Console(force_terminal=True, width=width, color_system=None)

    monkeypatch.setattr(watch, "console", terminal)
    result = run(stream_file, red_then_blue, "--labels", long_labels)
    assert result.exit_code == 0
    shown = [line for line in result.stdout.splitlines() if "%" in line]
    assert len(shown) == min(5, len(LABELS))
    assert all(len(line) <= width for line in shown)
    words = [word for line in result.stdout.splitlines()[1:] for word in line.split()]
    assert words.count("stable") == len(shown)


def test_a_pipe_gets_whole_labels_on_one_line(
    stream_file: Path, red_then_blue: Path, long_labels: Path
) -> None:
    result = run(stream_file, red_then_blue, "--labels", long_labels)
    assert [LONG in line for line in result.stdout.splitlines()[1:]] == [True] * 5


def test_folders_of_class_folders_are_predicted_video_by_video(
    stream_file: Path, red_then_blue: Path, tmp_path: Path
) -> None:
    for name in ("a", "b", ".hidden"):
        (tmp_path / name).mkdir()
        shutil.copy(red_then_blue, tmp_path / name / "x.mp4")
    (tmp_path / "a" / "._x.mp4").touch()
    result = run(stream_file, tmp_path)
    assert result.exit_code == 0, result.output
    headings = [line for line in result.stdout.splitlines() if "x.mp4" in line]
    assert [Path(line.split("  ")[0]) for line in headings] == [
        tmp_path / "a" / "x.mp4",
        tmp_path / "b" / "x.mp4",
    ]


def test_gifs_are_videos(stream_file: Path, tmp_path: Path) -> None:
    frames = [PIL.Image.fromarray(image("red"))] * 10
    frames[0].save(tmp_path / "red.gif", save_all=True, append_images=frames[1:], duration=100)
    assert find_videos(tmp_path) == [tmp_path / "red.gif"]
    result = run(stream_file, tmp_path, "--top", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split()[1] == "red"
