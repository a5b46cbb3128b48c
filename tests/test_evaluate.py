"""Accuracy over videos whose answers are known."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from colour_model import write_colour_model, write_colours

from movinet_convert.cli import main
from movinet_convert.errors import UsageError
from movinet_convert.evaluate import Evaluation, evaluate, middle
from movinet_convert.video import Frame

# Row c of the model's ranking: c itself, then the colours that follow it. So what is shown and
# what it is called give the rank: (called, shown) -> how far "called" comes after "shown".
SHOWN = [
    ("red", "red"),
    ("red", "red"),
    ("green", "green"),
    ("blue", "blue"),
    ("yellow", "yellow"),
    ("cyan", "cyan"),
    ("green", "red"),  # second
    ("cyan", "red"),  # fifth, still in the top 5
    ("black", "red"),  # sixth
    ("red", "green"),  # last
]
TOP1, TOP5 = 60.0, 80.0
FRAMES = "4"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_model(tmp_path_factory.mktemp("m") / "s.safetensors", "a0-stream")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for i, (called, shown) in enumerate(SHOWN):
        write_colours(folder / called / f"{i}.mp4", shown)
    return folder


def run(model: Path, data: Path, out: Path) -> Evaluation:
    return evaluate(model, data, out, frames=int(FRAMES), threads=1)


def known(result: Evaluation) -> bool:
    return (result.top1, result.top5) == (TOP1, TOP5) and result.videos == len(SHOWN)


def test_the_accuracy_is_exactly_the_known_one(model: Path, data: Path, tmp_path: Path) -> None:
    assert known(run(model, data, tmp_path))


def test_the_command_prints_it(model: Path, data: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", model, "--data", data, "--out", tmp_path, "--frames", FRAMES]
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["top1"], figures["top5"], figures["read"]) == (TOP1, TOP5, len(SHOWN))


def test_broken_and_missing_videos_are_counted_and_skipped(
    model: Path, data: Path, tmp_path: Path
) -> None:
    table = tmp_path / "list.csv"
    rows = [f"{called},{called}/{i}.mp4" for i, (called, _) in enumerate(SHOWN)]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    table.write_text("\n".join(["label,path", *rows, f"red,{broken}", "red,missing.mp4"]))
    result = evaluate(model, table, tmp_path / "out", videos=data, frames=int(FRAMES))
    assert (result.top1, result.top5) == (TOP1, TOP5)
    assert (result.videos, result.read, result.broken) == (12, 10, 2)


def test_kinetics_own_table_finds_its_clips(model: Path, tmp_path: Path) -> None:
    write_colours(tmp_path / "clips" / "abc_def-123_000004_000014.mp4", "blue")
    write_colours(tmp_path / "clips" / "white" / "x_000000_000010.mp4", "white")
    table = tmp_path / "validate.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        writer.writerow(["blue", "abc_def-123", 4, 14, "validate"])
        writer.writerow(["white", "x", 0, 10, "validate"])
    result = evaluate(model, table, tmp_path / "out", videos=tmp_path / "clips", frames=4)
    assert (result.top1, result.broken) == (100.0, 0)


def test_a_run_that_was_killed_goes_on_where_it_was(
    model: Path, data: Path, tmp_path: Path
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(data, videos)
    stuck = videos / "green" / "2.mp4"  # the fifth; a pipe that nobody writes to holds the run
    stuck.unlink()
    os.mkfifo(stuck)
    command = ["evaluate", model, "--data", videos, "--out", out, "--frames", FRAMES]
    process = subprocess.Popen([sys.executable, "-m", "movinet_convert", *map(str, command)])
    results = out / "results-0.jsonl"
    while not (results.exists() and len(results.read_text().splitlines()) == 4):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    with results.open("a") as file:
        file.write('{"video": "green/2.mp4", "la')  # as if killed in the middle of a line
    stuck.unlink()
    shutil.copy(data / "green" / "2.mp4", stuck)
    reached: list[int] = []
    result = evaluate(
        model, videos, out, frames=int(FRAMES), progress=lambda _, total: reached.append(total)
    )
    assert known(result)
    assert reached == [6] * 6, "only the six that were missing"


def test_two_processes_share_the_work_and_agree(model: Path, data: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = ["-m", "movinet_convert", "evaluate", model, "--data", data, "--out", tmp_path]
    done = subprocess.run(
        [*launch, *map(str, command), "--frames", FRAMES, "--threads", "1", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    figures = json.loads(done.stdout)
    assert (figures["top1"], figures["top5"]) == (TOP1, TOP5)
    shares = [len(p.read_text().splitlines()) for p in sorted(tmp_path.glob("results-*.jsonl"))]
    assert shares == [5, 5]


def test_results_of_other_weights_are_not_mixed_in(model: Path, data: Path, tmp_path: Path) -> None:
    run(model, data, tmp_path)
    with pytest.raises(UsageError, match="results of another evaluation"):
        evaluate(model, data, tmp_path, frames=5)


def test_an_unknown_class_is_named_with_its_line(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("label,path\nred,a.mp4\npurple,b.mp4\n")
    with pytest.raises(UsageError, match=r"list\.csv, line 3: .*'purple'"):
        run(model, table, tmp_path / "out")


def test_a_table_with_other_columns_is_refused(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("name,class\na.mp4,red\n")
    with pytest.raises(UsageError, match="expected label and path"):
        run(model, table, tmp_path / "out")


def test_a_video_listed_twice_is_refused(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("label,path\nred,a.mp4\ngreen,a.mp4\n")
    with pytest.raises(UsageError, match="more than once"):
        run(model, table, tmp_path / "out")


def test_an_empty_folder_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no labelled videos"):
        run(model, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("count", "length", "chosen"),
    [(10, 4, [3, 4, 5, 6]), (4, 4, [0, 1, 2, 3]), (3, 7, [0, 1, 2, 0, 1, 2, 0])],
)
def test_a_clip_is_the_middle_and_a_short_video_starts_over(
    count: int, length: int, chosen: list[int]
) -> None:
    frames = [Frame(float(i), None) for i in range(count)]  # type: ignore[arg-type]
    assert [frame.time for frame in middle(frames, length)] == chosen
