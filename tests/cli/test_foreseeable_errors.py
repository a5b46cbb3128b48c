"""What can be foreseen is one sentence that says what to do, not a bug and not silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from movinet_convert import create_model, load_converted, save_weights
from movinet_convert.cli.app import main
from movinet_convert.cli.command import sentence
from movinet_convert.cli.terminal import doing, echo, progress
from movinet_convert.errors import UsageError
from movinet_convert.video.dataset import read_dataset


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--arch", "a0", "--no-verify", "--size", "64x64"], "--size has no effect with --no-ver"),
        (["--arch", "a0", "--no-verify", "--seed", "1"], "--seed has no effect with --no-verify"),
        (["--checkpoint", "x", "--source", "kaggle"], "--source has no effect with --checkpoint"),
        (["--arch", "a0", "--synthetic", "--offline"], "--offline has no effect with --synthetic"),
        (["--arch", "a0", "list"], "--arch before 'list' is an option of a conversion and has no"),
        (["--json", "list"], "movinet-convert list … --json"),
    ],
)
def test_an_option_without_effect_is_an_error(arguments: list[str], problem: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert problem in result.stderr


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cuda:x", "meta"])
def test_a_device_that_is_not_here_is_named_with_those_that_are(
    device: str, tmp_path: Path
) -> None:
    save_weights(create_model("a0-stream", num_classes=2), tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match=f"cannot run on '{device}' here; the devices are cpu"):
        load_converted(tmp_path / "x.safetensors", device=device)


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("list", "--weights-dir", tmp_path / "file")
    assert result.exit_code == 2
    assert "file is a file; the store is a folder" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "--json"]])
def test_a_full_disk_for_the_output_is_one_sentence(arguments: list[str], tmp_path: Path) -> None:
    code = "from movinet_convert.cli.app import main; main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MOVINET_WEIGHTS_DIR": str(tmp_path)},
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_a_video_in_place_of_a_data_set_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "dance.mp4").touch()
    with pytest.raises(UsageError, match=r"dance.mp4 is a video; name a folder with one folder of"):
        read_dataset(tmp_path / "dance.mp4", ("a", "b"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    ],
)
def test_too_little_memory_is_not_a_bug(error: Exception) -> None:
    assert "memory of this machine or its GPU is not enough" in sentence(error)


def test_closed_outputs_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with doing("Reading"), progress("Frames", total=2) as update:
        echo("to nobody")
        echo("to nobody", err=True)
        update(completed=1)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["report", "x.safetensors", "--out", "page.pdf"], "page.pdf must end in .html or .htm."),
        (["evaluate", "x", "--data", ".", "--out", __file__], "is a file"),
    ],
)
def test_an_output_of_the_wrong_kind_is_refused_before_any_work(
    command: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_weights(create_model("a0-base", num_classes=2), tmp_path / "x.safetensors")
    result = run(*command)
    assert result.exit_code == 2
    assert problem in result.stderr
