"""Accuracy over videos with known predictions."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from movinet_convert.cli.app import main
from movinet_convert.errors import EvaluationError, UsageError, WeightsError
from movinet_convert.video import journal
from movinet_convert.video.dataset import read_dataset
from movinet_convert.video.evaluate import Evaluation, evaluate
from movinet_convert.weights.file import write_weights
from movinet_convert.weights.header import Header
from tests.helpers.colour_model import LABELS, SHOWN, TOP1, TOP5, colour_model, write_colours
from tests.helpers.odd_videos import largest_file, write_stamped

FRAMES = "4"


def run(model: Path, data: Path, out: Path) -> Evaluation:
    return evaluate(model, data, out, frames=int(FRAMES), threads=1)


def known(result: Evaluation) -> bool:
    return (result.top1, result.top5) == (TOP1, TOP5) and result.videos == len(SHOWN)


def test_accuracy_equals_the_known_values(stream_file: Path, data: Path, tmp_path: Path) -> None:
    assert known(run(stream_file, data, tmp_path))


def test_the_command_prints_the_accuracy(stream_file: Path, data: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", stream_file, "--data", data, "--out", tmp_path, "--frames", FRAMES]
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["top1"], figures["top5"], figures["read"]) == (TOP1, TOP5, len(SHOWN))


def test_broken_and_missing_videos_are_counted_and_skipped(
    stream_file: Path, data: Path, tmp_path: Path
) -> None:
    table = tmp_path / "list.csv"
    rows = [f"{called},{called}/{i}.mp4" for i, (called, _) in enumerate(SHOWN)]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    table.write_text("\n".join(["label,path", *rows, f"red,{broken}", "red,missing.mp4"]))
    result = evaluate(stream_file, table, tmp_path / "out", videos=data, frames=int(FRAMES))
    assert (result.top1, result.top5) == (TOP1, TOP5)
    assert (result.videos, result.read, result.broken) == (12, 10, 2)


def test_a_kinetics_csv_file_finds_its_clips(stream_file: Path, tmp_path: Path) -> None:
    write_colours(tmp_path / "clips" / "abc_def-123_000004_000014.mp4", "blue")
    write_colours(tmp_path / "clips" / "white" / "x_000000_000010.mp4", "white")
    table = tmp_path / "validate.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        writer.writerow(["blue", "abc_def-123", 4, 14, "validate"])
        writer.writerow(["white", "x", 0, 10, "validate"])
    result = evaluate(stream_file, table, tmp_path / "out", videos=tmp_path / "clips", frames=4)
    assert (result.top1, result.broken) == (100.0, 0)


def test_a_killed_run_resumes(stream_file: Path, data: Path, tmp_path: Path) -> None:
    killed = (
        "import os, signal, sys; from pathlib import Path\n"
        "from movinet_convert.video.evaluate import evaluate\n"
        "def die(done, total): done == 4 and os.kill(os.getpid(), signal.SIGKILL)\n"
        f"evaluate(*map(Path, sys.argv[1:]), frames={FRAMES}, progress=die)"
    )
    command = [sys.executable, "-c", killed, stream_file, data, tmp_path]
    assert subprocess.run(list(map(str, command))).returncode == -9
    results = tmp_path / "results-0.jsonl"
    with results.open("a") as file:
        file.write('{"video": "green/2.mp4", "la')  # as if killed in the middle of a line
    reached: list[tuple[int, int]] = []
    result = evaluate(
        stream_file, data, tmp_path, frames=int(FRAMES), progress=lambda *at: reached.append(at)
    )
    assert known(result)
    assert reached == [(done, 10) for done in range(4, 10)], "only the six that were missing"


def test_two_processes_share_the_work_and_return_the_same_result(
    stream_file: Path, data: Path, tmp_path: Path
) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = ["-m", "movinet_convert", "evaluate", stream_file, "--data", data, "--out", tmp_path]
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


def test_results_of_other_weights_are_rejected(
    stream_file: Path, data: Path, tmp_path: Path
) -> None:
    run(stream_file, data, tmp_path)
    with pytest.raises(UsageError, match="results of another evaluation"):
        evaluate(stream_file, data, tmp_path, frames=5)
    with pytest.raises(UsageError, match=r"fps is 5, here 12\.5"):
        evaluate(stream_file, data, tmp_path, frames=int(FRAMES), fps=12.5)


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("label,path\nred,a.mp4\npurple,b.mp4\n", r"list\.csv, line 3: .*'purple'"),
        ("name,class\na.mp4,red\n", "expected label and path"),
        (
            "label,path\nred,a.mp4\ngreen,a.mp4\n",
            r"list\.csv, line 3: a\.mp4 is already listed in line 2",
        ),
    ],
    ids=["unknown class", "other columns", "listed twice"],
)
def test_an_invalid_csv_row_is_rejected_with_its_line_number(
    stream_file: Path, tmp_path: Path, rows: str, fault: str
) -> None:
    table = tmp_path / "list.csv"
    table.write_text(rows)
    with pytest.raises(UsageError, match=fault):
        run(stream_file, table, tmp_path / "out")


def test_an_empty_folder_is_rejected(stream_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no labelled videos"):
        run(stream_file, tmp_path, tmp_path / "out")


def spoiled_model(path: Path, weight: float) -> Path:
    """A model whose classifier weights are all ``weight``."""
    model = colour_model("a0-stream")
    torch.nn.init.constant_(model.classifier.output.weight, weight)
    torch.nn.init.zeros_(model.classifier.output.bias)
    write_weights(path, model.state_dict(), Header.of_model(model, labels=LABELS))
    return path


@pytest.mark.parametrize(
    ("weight", "fault"), [(3e38, "not finite"), (0.0, "All 7 logits .* are the same")]
)
def test_meaningless_logits_fail_and_name_the_video(
    data: Path, tmp_path: Path, weight: float, fault: str
) -> None:
    spoiled = spoiled_model(tmp_path / "spoiled.safetensors", weight)
    with pytest.raises(WeightsError, match=fault) as raised:
        run(spoiled, data, tmp_path / "out")
    assert str(data / "black" / "8.mp4") in str(raised.value), "the first video"


def test_a_video_with_a_gap_of_a_month_counts_as_broken(stream_file: Path, tmp_path: Path) -> None:
    write_stamped(tmp_path / "data" / "red" / "month.mp4", [0, 30 * 86400])
    write_colours(tmp_path / "data" / "red" / "whole.mp4", "red")
    result = run(stream_file, tmp_path / "data", tmp_path / "out")
    assert (result.top1, result.broken) == (100.0, 1)
    line = json.loads((tmp_path / "out" / "results-0.jsonl").read_text().splitlines()[0])
    assert "shows one frame for 2592000 s" in line["error"]


def test_a_pipe_among_the_videos_counts_as_broken(stream_file: Path, tmp_path: Path) -> None:
    write_colours(tmp_path / "red" / "whole.mp4", "red")
    os.mkfifo(tmp_path / "red" / "pipe.mp4")
    result = run(stream_file, tmp_path, tmp_path / "out")
    assert (result.top1, result.broken) == (100.0, 1)
    assert "is a named pipe" in (tmp_path / "out" / "results-0.jsonl").read_text()


def test_a_camera_among_the_videos_is_not_opened(
    stream_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text("label,path\nred,camera\n")
    assert run(stream_file, Path("list.csv"), Path("out")).broken == 1
    assert "is live" in Path("out/results-0.jsonl").read_text()


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments), "--frames", FRAMES])


def test_a_run_without_readable_videos_fails_until_retry_succeeds(
    stream_file: Path, data: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "data" / "red" / "0.mp4"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no video")
    arguments = (stream_file, "--data", tmp_path / "data", "--out", tmp_path / "out")
    result = command(*arguments)
    assert result.exit_code == 1
    assert "None of the 1 videos could be read" in result.stderr
    shutil.copy(data / "red" / "0.mp4", broken)
    assert command(*arguments).exit_code == 1, "what is known is not tried again"
    result = command(*arguments, "--retry")
    assert result.exit_code == 0, result.output
    assert "top-1 100.00 %" in result.stdout


def test_an_interrupted_run_reports_what_is_kept(
    stream_file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("movinet_convert.video.evaluate.check_logits", stop)
    result = command(stream_file, "--data", data, "--out", tmp_path)
    assert result.exit_code == 130
    assert f"are kept in {tmp_path}, and the same command resumes" in result.stderr


def test_a_full_disk_is_reported_and_the_run_resumes(
    stream_file: Path, data: Path, tmp_path: Path
) -> None:
    with (
        largest_file(400),
        pytest.raises(EvaluationError, match=r"results-0\.jsonl cannot be written .*resumes"),
    ):
        run(stream_file, data, tmp_path)
    assert (tmp_path / "results-0.jsonl").stat().st_size == 400, "a part of a line"
    assert known(run(stream_file, data, tmp_path))


WHOLE = '{"video": "black/8.mp4", "label": 5, "rank": 0, "predicted": 5, "error": null}\n'
NO_RESULTS = [
    "[]",
    "17",
    '{"video": "black/8.mp4"}',
    WHOLE.replace('"rank": 0', '"rank": 7'),
    WHOLE.replace('"rank": 0', '"rank": "best"'),
    WHOLE.replace('"label": 5', '"label": 0'),
    WHOLE.replace('"black/8.mp4"', "[]"),
    WHOLE.replace("8.mp4", "other.mp4"),
    "[" * 100_000,
]


@pytest.mark.parametrize("line", NO_RESULTS, ids=range(len(NO_RESULTS)))
def test_an_invalid_result_is_rejected_with_its_line_number(
    data: Path, tmp_path: Path, line: str
) -> None:
    (tmp_path / "results-3.jsonl").write_text(WHOLE + line.strip() + "\n")
    with pytest.raises(UsageError, match=r"results-3\.jsonl, line 2, is not a result"):
        journal.read_outcomes(tmp_path, read_dataset(data, LABELS), len(LABELS))


def test_a_pipe_instead_of_a_results_file_is_rejected(
    stream_file: Path, data: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "results-0.jsonl")
    with pytest.raises(UsageError, match=r"results-0\.jsonl is a named pipe"):
        run(stream_file, data, tmp_path)


@pytest.mark.parametrize("content", ["[]", "1", "{", "[" * 10**5])
def test_a_setup_file_without_a_json_object_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "setup.json").write_text(content)
    with pytest.raises(UsageError, match=r"setup\.json .*name another folder"):
        journal.claim(tmp_path, "", [], 1, 5)
