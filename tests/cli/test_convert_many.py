"""Several variants in one command: what succeeds is kept, what fails is named."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from movinet_convert.cli import convert as convert_cli
from movinet_convert.cli import convert_many
from movinet_convert.cli.app import main
from movinet_convert.variants import Variant, list_variants
from tests.helpers import fetch_server as servers


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of releases that has a0-base alone, and an empty cache."""
    monkeypatch.setenv("MOVINET_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / Variant("a0", "base").archive_name).write_bytes(servers.release_tar("a0-base"))
    return folder


def test_one_that_fails_does_not_stop_the_others(mirror: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    job = ["--arch", "a1", "--arch", "a0", "--source-root", mirror, "--no-verify", "--out", store]
    first = run(*job)
    assert first.exit_code == 1
    assert "1 of 2 variants failed: a1-base" in first.stderr
    assert re.search(r"a0-base\W+mirror\W+not verified\W+v1", first.stdout)
    assert re.search(r"a1-base\W+failed", first.stdout)
    assert (store / "movinet-a0-base-v1.safetensors").is_file()

    again = run(*job, "--json")
    report = json.loads(again.stdout)
    assert (again.exit_code, report["exit_code"]) == (1, 1)
    assert "movinet_a1_base.tar.gz" in report["failed"]["a1-base"]
    (row,) = report["converted"]
    assert (row["variant"], row["created"], row["version"]) == ("a0-base", False, 1)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--all"], list_variants()),
        (["--all", "--causal"], [name for name in list_variants() if name.endswith("stream")]),
        (["--arch", "t0", "--arch", "a0", "--arch", "t0"], ["t0-base", "a0-base"]),
        (["--arch", "a1", "--arch", "a0", "--causal"], ["a1-stream", "a0-stream"]),
    ],
)
def test_arch_and_all_select_variants(
    arguments: list[str], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    selected: list[str] = []
    monkeypatch.setattr(
        convert_cli, "convert_many", lambda variants, *_: selected.extend(v.name for v in variants)
    )
    assert run(*arguments).exit_code == 0
    assert selected == names


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--all", "--arch", "a0"], "--all and --arch both select variants"),
        (["--all", "--checkpoint", "x"], "--checkpoint is one model"),
        (["--causal", "--checkpoint", "x"], "--causal selects a variant together with --arch"),
        (["--all", "--gating", "keras"], "sigmoid"),
    ],
)
def test_contradictory_selections_are_usage_errors(arguments: list[str], problem: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert problem in result.stderr


def test_labels_for_releases_are_600(tmp_path: Path, mirror: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    result = run("--all", "--source", mirror, "--labels", names)
    assert result.exit_code == 2
    assert "names 2 classes, but the model has 600" in result.stderr
    assert not (tmp_path / "cache").exists()


def test_the_stages_of_each_variant_are_shown(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    @contextmanager
    def doing(what: str) -> Iterator[Callable[[str], None]]:
        yield lambda stage: shown.append(f"{what}: {stage}")

    monkeypatch.setattr(convert_many, "doing", doing)
    store = tmp_path / "store"
    run("--arch", "a0", "--arch", "a1", "--source", mirror, "--no-verify", "--out", store)
    assert "Converting a0-base: writing the file" in shown


def test_a_process_that_is_killed_does_not_keep_the_other_waiting() -> None:
    stages: list[str] = []
    with pytest.raises(BrokenProcessPool):
        convert_many.in_own_process(killed, stage=stages.append)
    assert stages == ["before the end"]


def killed() -> None:
    convert_many.report_stage("before the end")
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
