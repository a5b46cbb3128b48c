"""What ``evaluate`` prints and writes, and its verdict on an expected accuracy."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from movinet_convert.cli.app import main
from movinet_convert.errors import UsageError
from movinet_convert.video.evaluate import evaluate
from tests.helpers.colour_model import SHOWN


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results that several tests read; the first evaluates the videos."""
    return tmp_path_factory.mktemp("out") / "evaluation"


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments), "--frames", "4"])


@pytest.mark.parametrize(
    ("options", "verdicts"),
    [
        (["--expect", "72.05"], {"top1": True}),
        (["--expect", "95"], {"top1": False}),
        (["--expect", "50", "--expect-top5", "99.9"], {"top1": True, "top5": False}),
        (["--expect", "0"], {"top1": False}),
    ],
)
def test_an_expected_accuracy_gives_a_verdict_and_an_exit_code(
    stream_file: Path, data: Path, out: Path, options: list[str], verdicts: dict[str, bool]
) -> None:
    result = command(stream_file, "--data", data, "--out", out, *options, "--json")
    assert result.exit_code == (0 if all(verdicts.values()) else 1)
    printed = json.loads(result.stdout)
    compared = printed["expected"]
    assert {top: comparison["consistent"] for top, comparison in compared.items()} == verdicts
    assert [0, 0, 2] in printed["confusion"]  # two red videos
    assert sum(count for _, _, count in printed["confusion"]) == len(SHOWN)
    assert printed["classes"][0]["class"] == "black"


def test_a_failed_comparison_is_printed_with_what_so_few_videos_show(
    stream_file: Path, data: Path, out: Path
) -> None:
    result = command(stream_file, "--data", data, "--out", out, "--expect", "95")
    assert result.exit_code == 1
    assert "top-1 is NOT consistent with the expected 95.00 %" in result.stdout
    assert "10 videos show a true top-1 below 69.21 %" in result.stdout


@pytest.mark.parametrize("text", ["0.7205", "100.5", "-1", "nan", "inf", "72,05"])
def test_an_expected_accuracy_that_is_not_in_percent_is_rejected(text: str) -> None:
    result = command("a0-stream", "--data", ".", "--expect", text)
    assert result.exit_code == 2
    assert "is not an accuracy in percent, such as 72.05" in result.stderr


def test_the_worst_classes_are_printed_first_and_all_are_in_the_files(
    stream_file: Path, data: Path, out: Path
) -> None:
    result = command(stream_file, "--data", data, "--out", out)
    lines = result.stdout.splitlines()
    worst = next(i for i, line in enumerate(lines) if "worst classes" in line)
    assert [line.split()[0] for line in lines[worst + 1 : worst + 4]] == ["black", "green", "cyan"]
    assert "red (1)" in lines[worst + 1]
    table = (out / "per_class.csv").read_text().splitlines()
    assert len(table) == 1 + len({called for called, _ in SHOWN})
    matrix = list(csv.reader((out / "confusion.csv").open()))
    counted = sum(int(count) for row in matrix[1:] for count in row[1:])
    assert (matrix[1][:2], counted) == (["red", "2"], len(SHOWN))
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_what_unreadable_videos_could_change_is_printed(
    stream_file: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    for i in range(10):
        (tmp_path / "data" / "red" / f"broken{i}.mp4").write_bytes(b"no video")
    arguments = (stream_file, "--data", tmp_path / "data", "--out", tmp_path / "out")
    result = command(*arguments, "--expect", "60")
    assert result.exit_code == 0
    assert "all of them been wrong, top-1 would be 30.00 %; all correct, 80.00 %" in result.stdout
    assert "biased unless they are missing at random" in result.stdout


def test_a_list_of_videos_is_not_overwritten_by_a_result(
    stream_file: Path, data: Path, tmp_path: Path
) -> None:
    table = tmp_path / "confusion.csv"
    table.write_text(before := "label,path\nred,red/0.mp4\n")
    with pytest.raises(UsageError, match=r"confusion\.csv is the input"):
        evaluate(stream_file, table, tmp_path, videos=data, frames=4)
    assert table.read_text() == before
