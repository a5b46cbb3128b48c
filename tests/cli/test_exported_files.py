"""``predict`` and ``evaluate`` run exported files wherever they take a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from movinet_convert import load_exported, save_weights
from movinet_convert.cli.app import main
from movinet_convert.export import ExportedModel, exported
from tests.helpers.colour_model import LABELS, colour_model, write_colour_model, write_colours


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as converted weights and as an export, and videos of each class."""
    folder = tmp_path_factory.mktemp("exported")
    write_colour_model(folder / "colours.safetensors", "t0-stream")
    unnamed = save_weights(colour_model("t0-stream"), folder / "unnamed.safetensors")
    names = folder / "names.txt"
    names.write_text("\n".join(LABELS))
    arguments = ("--format", "torch-export", "--out", folder / "colours.pt2", "--labels", names)
    written = run("export", unnamed, *arguments)
    assert written.exit_code == 0, written.output
    assert not written.stderr
    for name, colour in (("red", "red"), ("blue", "blue"), ("green", "white")):
        write_colours(folder / "videos" / name / "video.mp4", colour)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_predict_prints_the_same_table_for_a_file(folder: Path) -> None:
    video = folder / "videos" / "red" / "video.mp4"
    found = lines(run("predict", folder / "colours.pt2", video, "--json"))
    expected = lines(run("predict", folder / "colours.safetensors", video, "--json"))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert [guess["label"] for guess in ours["top"]] == [g["label"] for g in theirs["top"]]
        for one, other in zip(ours.pop("top"), theirs.pop("top"), strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
        assert ours == theirs


def test_evaluate_finds_the_same_accuracy_for_a_file(folder: Path, tmp_path: Path) -> None:
    figures = []
    for name in ("colours.pt2", "colours.safetensors"):
        arguments = ("--data", folder / "videos", "--out", tmp_path / name, "--frames", 4)
        (result,) = lines(run("evaluate", folder / name, *arguments, "--json"))
        figures.append((result["variant"], result["top1"], result["top5"], result["read"]))
    assert figures[0] == figures[1]
    assert figures[0][1] == pytest.approx(200 / 3)


def test_labels_of_export_are_written_into_the_file(folder: Path, tmp_path: Path) -> None:
    assert load_exported(folder / "colours.pt2").labels == LABELS
    names = tmp_path / "names.txt"
    names.write_text("red\n")
    arguments = ("--format", "torch-export", "--out", tmp_path / "a.pt2", "--labels", names)
    result = run("export", folder / "unnamed.safetensors", *arguments)
    assert result.exit_code == 2
    assert f"{names} names 1 classes, but the model has {len(LABELS)}" in result.stderr
    assert not (tmp_path / "a.pt2").exists()


def test_threads_are_passed_to_the_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int | None] = []
    real = exported.load_exported

    def load(path: Path, threads: int | None = None, **options: Any) -> ExportedModel:
        given.append(threads)
        return real(path, threads, **options)

    monkeypatch.setattr(exported, "load_exported", load)
    video = folder / "videos" / "blue" / "video.mp4"
    lines(run("predict", folder / "colours.pt2", video, "--json", "--threads", 1))
    lines(run("predict", folder / "colours.pt2", video, "--json"))
    assert given == [1, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda"], "--device is for converted weights"),
        (["--weights-dir", "store"], "--weights-dir is for converted weights"),
    ],
)
def test_options_of_converted_weights_are_rejected(
    options: list[str], message: str, folder: Path
) -> None:
    result = run("predict", folder / "colours.pt2", folder / "videos" / "red", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = run("predict", tmp_path / "lost.onnx", tmp_path)
    assert result.exit_code == 2
    assert f"There is no file {tmp_path / 'lost.onnx'}" in result.stderr
