"""The store under what befalls tools that run unattended: crowds, kills, full and strange disks."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from movinet_convert.cli.app import main
from movinet_convert.conversion.loading import load_converted
from movinet_convert.conversion.pipeline import Conversion, convert
from movinet_convert.download.fetch import fetch_release
from movinet_convert.errors import DownloadError, UsageError, WeightsError
from movinet_convert.model.settings import get_variant
from movinet_convert.weights.store import Store
from scripts import kill_test
from tests.helpers.fetch_server import noise_tar, release_tar
from tests.helpers.seeded import choices, variables, write_checkpoint

NAME = "a0-stream"
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "one", NAME, variables(NAME, seed=1)
    )


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "two", NAME, variables(NAME, seed=2)
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Children are forked here, and a forked child has none of its parent's other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(checkpoint: Path, store: Path, **options: Any) -> Conversion:
    return convert(NAME, checkpoint, **choices(NAME), out=store, parity=None, **options)


def at_once(*jobs: tuple[Callable[..., object], tuple[object, ...]]) -> list[int | None]:
    """Run functions in processes of their own at the same time; their exit codes."""
    children = [FORK.Process(target=target, args=args) for target, args in jobs]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    return [child.exitcode for child in children]


def versions(store: Path) -> list[int]:
    return [entry.version for entry in Store(store).manifest().versions(NAME)]


def unfinished(store: Path) -> list[Path]:
    return list(store.glob(".movinet-*"))


# Several at once


def test_two_concurrent_conversions_into_one_store_succeed(
    checkpoint: Path, another: Path, tmp_path: Path
) -> None:
    assert at_once((run, (checkpoint, tmp_path)), (run, (another, tmp_path))) == [0, 0]
    assert versions(tmp_path) == [1, 2]
    first, second = (load_converted(NAME, weights_dir=tmp_path, version=v) for v in (1, 2))
    assert not torch.equal(first.stem.conv.weight, second.stem.conv.weight)


def test_four_concurrent_conversions_of_same_checkpoint_make_one_version(
    checkpoint: Path, tmp_path: Path
) -> None:
    assert at_once(*[(run, (checkpoint, tmp_path))] * 4) == [0] * 4
    assert versions(tmp_path) == [1]
    assert unfinished(tmp_path) == []


def test_store_can_be_read_while_it_is_written(
    checkpoint: Path, another: Path, tmp_path: Path
) -> None:
    run(checkpoint, tmp_path)
    first = load_converted(NAME, weights_dir=tmp_path).stem.conv.weight.clone()
    writer = FORK.Process(target=run, args=(another, tmp_path))
    writer.start()
    while writer.is_alive():
        assert torch.equal(
            load_converted(NAME, weights_dir=tmp_path, version=1).stem.conv.weight, first
        )
    writer.join()
    assert versions(tmp_path) == [1, 2]


def _hold(store: Path, held: Any) -> None:
    with Store(store).staging() as folder, Store(store).locked():
        (folder / "half.safetensors").touch()
        held.set()
        time.sleep(60)


def test_conversion_continues_when_lock_holder_is_killed(checkpoint: Path, tmp_path: Path) -> None:
    held = FORK.Event()
    holder = FORK.Process(target=_hold, args=(tmp_path, held))
    holder.start()
    assert held.wait(10)
    waiting = FORK.Process(target=run, args=(checkpoint, tmp_path))
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive()
    holder.kill()
    holder.join()
    waiting.join(60)
    assert waiting.exitcode == 0
    assert versions(tmp_path) == [1]
    run(checkpoint, tmp_path)  # sweeps what the killed one left
    assert unfinished(tmp_path) == []


# Kills


def test_store_loads_after_kills_at_random_times(checkpoint: Path, tmp_path: Path) -> None:
    seen = kill_test.kill_conversions(kill_test.Job(NAME, checkpoint), 10, 0, tmp_path)
    assert seen["killed"] == 10
    assert seen["failed"] == 0


def _die_at(function: str, call: int, moment: str, checkpoint: Path, store: Path) -> None:
    """Convert, and be killed just before or just after the given call of a system function."""
    real, calls = getattr(os, function), itertools.count(1)

    def deadly(*args: Any, **options: Any) -> Any:
        last = next(calls) == call
        if last and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(os, function, deadly)
    run(checkpoint, store)


# Writing is: flush the weights, flush the manifest, move the weights, move the manifest.
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_store_loads_after_kill_at_every_write_step(
    function: str, call: int, moment: str, checkpoint: Path, another: Path, tmp_path: Path
) -> None:
    run(checkpoint, tmp_path)
    before = load_converted(NAME, weights_dir=tmp_path, version=1).state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    dying = FORK.Process(target=_die_at, args=(function, call, moment, another, tmp_path))
    dying.start()
    dying.join(60)
    assert dying.exitcode == -signal.SIGKILL
    done = (function, call, moment) == ("replace", 2, "after")
    assert versions(tmp_path) == ([1, 2] if done else [1])
    load_converted(NAME, weights_dir=tmp_path)
    after = load_converted(NAME, weights_dir=tmp_path, version=1).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    run(another, tmp_path)
    assert versions(tmp_path) == [1, 2]
    assert unfinished(tmp_path) == []


def test_kill_test_detects_store_that_does_not_load(checkpoint: Path, tmp_path: Path) -> None:
    run(checkpoint, tmp_path)
    right = {1: kill_test.tensors(tmp_path, NAME, 1)}
    assert kill_test.fault(tmp_path, NAME, right) is None
    wrong = {1: {**right[1], "stem.conv.weight": right[1]["stem.conv.weight"] + 1}}
    assert "wrong values" in str(kill_test.fault(tmp_path, NAME, wrong))
    (file,) = tmp_path.glob("*.safetensors")
    os.truncate(file, 1000)
    assert "bytes 1000" in str(kill_test.fault(tmp_path, NAME, right))


def test_removes_leftovers_of_killed_runs_only(checkpoint: Path, tmp_path: Path) -> None:
    leftover = tmp_path / ".movinet-store-0123abcd"
    leftover.mkdir()
    (leftover / "weights.safetensors").write_bytes(b"half a file")
    theirs = tmp_path / "notes.unfinished"
    theirs.write_text("a user's")
    run(checkpoint, tmp_path)
    assert unfinished(tmp_path) == []
    assert theirs.read_text() == "a user's"


def test_keeps_unlisted_file_with_next_version_name(checkpoint: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "movinet-a0-stream-v1.safetensors"
    theirs.write_bytes(b"somebody's file")
    stored = run(checkpoint, tmp_path).stored
    assert stored.path.name == "movinet-a0-stream-v2.safetensors"
    assert theirs.read_bytes() == b"somebody's file"
    assert load_converted(NAME, weights_dir=tmp_path).num_classes == 7


# Disks


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A small disk of its own, in memory; mounting takes root."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk takes root on Linux")
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", "16m") as folder:
        yield folder


def fill(disk: Path, leave: int) -> None:
    """Occupy a disk until ``leave`` bytes are free."""
    stats = os.statvfs(disk)
    free = stats.f_bavail * stats.f_frsize
    with (disk / "filler").open("wb") as file:
        file.write(bytes(free - leave))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("leave", [0, 4 << 10, 1 << 20, 9 << 20])
def test_full_disk_is_reported_and_nothing_is_replaced(
    checkpoint: Path, another: Path, small_disk: Path, leave: int
) -> None:
    run(checkpoint, small_disk, dtype="bfloat16")
    fill(small_disk, leave)
    before = contents(small_disk)
    with pytest.raises(
        WeightsError, match=r"could not be written \(.*No space left.*free some space"
    ):
        run(another, small_disk)
    assert contents(small_disk) == before
    load_converted(NAME, weights_dir=small_disk)


def test_full_disk_while_writing_manifest_leaves_store_unchanged(
    checkpoint: Path, another: Path, small_disk: Path
) -> None:
    run(checkpoint, small_disk, dtype="bfloat16")
    size = run(another, small_disk.parent / "roomy").stored.entry.bytes
    fill(small_disk, -(-size // 4096) * 4096)
    before = contents(small_disk)
    with pytest.raises(WeightsError, match=r"weights_manifest\.yaml could not be written"):
        run(another, small_disk)
    assert contents(small_disk) == before
    load_converted(NAME, weights_dir=small_disk)


def test_command_reports_full_disk_in_one_line(checkpoint: Path, small_disk: Path) -> None:
    fill(small_disk, 1 << 20)
    result = CliRunner().invoke(main, command(checkpoint, small_disk))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "No space left on device" in result.stderr


def test_download_to_full_disk_is_reported_and_frees_space(
    tmp_path: Path, small_disk: Path
) -> None:
    variant = get_variant("a0-base")
    (tmp_path / variant.archive_name).write_bytes(noise_tar(data_bytes=2 << 20))
    fill(small_disk, 1 << 20)
    with pytest.raises(DownloadError, match=r"No space left.*free some space"):
        fetch_release(variant, source_root=tmp_path, cache_dir=small_disk)
    assert not list(small_disk.glob("*.partial"))


def test_read_only_store_can_be_loaded_but_not_written(
    checkpoint: Path, another: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "16m") as disk:
        run(checkpoint, disk)
        (disk / ".lock").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        load_converted(NAME, weights_dir=disk)
        load_converted(next(disk.glob("*.safetensors")))
        with pytest.raises(UsageError, match=r"cannot be written \(Read-only file system\)"):
            run(another, disk)


def test_read_only_cache_serves_its_releases(tmp_path: Path) -> None:
    variant = get_variant("a0-base")
    (tmp_path / variant.archive_name).write_bytes(release_tar())
    with mounted(tmp_path / "disk", "16m") as disk:
        fetch_release(variant, source_root=tmp_path, cache_dir=disk)
        for lock in disk.glob("*.lock"):
            lock.unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert not fetch_release(variant, cache_dir=disk, offline=True).downloaded
        with pytest.raises(DownloadError, match="Read-only file system"):
            fetch_release(get_variant("a1-stream"), source_root=tmp_path, cache_dir=disk)


def test_loading_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    run(checkpoint, tmp_path)
    (tmp_path / ".lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())}
    load_converted(NAME, weights_dir=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())} == before


def test_store_path_below_file_is_a_usage_error(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        run(checkpoint, tmp_path / "file" / "store")
    with pytest.raises(WeightsError):
        load_converted(NAME, weights_dir=tmp_path / "file" / "store")


# Paths

STRANGE = ["with spaces", "süße Gewichte 重み", "-dash", "a'quote\"s", "new\nline", "%s{x}[y]*"]


def command(checkpoint: Path, store: Path) -> list[str]:
    arguments = [
        "--arch",
        "a0",
        "--causal",
        "--gating",
        "keras",
        "--head-activation",
        "swish",
        "--no-verify",
    ]
    return [*arguments, "--checkpoint", str(checkpoint), "--out", str(store)]


@pytest.mark.parametrize("name", STRANGE)
def test_accepts_any_folder_name_for_checkpoint_and_store(
    name: str, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / name
    shutil.copytree(checkpoint, folder / "in")
    stored = run(folder / "in", folder / "out").stored
    load_converted(NAME, weights_dir=folder / "out")
    load_converted(stored.path)


NO_TEXT = os.fsdecode(b"latin-1 \xfc")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are text")


@linux_only
def test_accepts_checkpoint_name_that_is_not_utf8(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / NO_TEXT)
    run(tmp_path / NO_TEXT, tmp_path / "out")
    load_converted(NAME, weights_dir=tmp_path / "out")


@linux_only
def test_refuses_store_name_that_is_not_utf8_before_any_work(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="not valid UTF-8; use another store"):
        run(checkpoint, tmp_path / NO_TEXT)
    assert not (tmp_path / NO_TEXT).exists()


def test_command_works_if_terminal_cannot_encode_path(checkpoint: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "movinet_convert", *command(checkpoint, tmp_path / "süße Gewichte")],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
