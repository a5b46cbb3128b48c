"""Staging folders are private, removed afterwards, and also if their process was killed."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

from movinet_convert.files.writing import staging_folder

FORK = multiprocessing.get_context("fork")


def _hold(parent: Path, held: Any) -> None:
    with staging_folder(parent, "store") as folder:
        (folder / "half").write_bytes(b"half a file")
        held.set()
        time.sleep(60)


def test_staging_folder_is_removed_with_its_contents(tmp_path: Path) -> None:
    with staging_folder(tmp_path, "store") as folder:
        (folder / "a").write_text("left")
        (folder / "b").write_text("moved")
        (folder / "b").replace(tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_removes_staging_folder_of_killed_process_but_not_of_running_one(tmp_path: Path) -> None:
    held = FORK.Event()
    holder = FORK.Process(target=_hold, args=(tmp_path, held))
    holder.start()
    assert held.wait(10)
    (other,) = tmp_path.iterdir()
    with staging_folder(tmp_path, "store"):
        assert (other / "half").exists()
    holder.kill()
    holder.join()
    assert other.exists()
    with staging_folder(tmp_path, "store"):
        assert not other.exists()


def test_removes_no_other_files(tmp_path: Path) -> None:
    users = [".movinet-export-01234567", ".movinet-store-mine", "x.unfinished", ".movinet-store-0"]
    for name in users:
        (tmp_path / name).mkdir()
    (tmp_path / ".movinet-store-01234567").write_text("a file")
    (tmp_path / ".movinet-store-89abcdef").symlink_to(tmp_path / users[0])
    before = sorted(path.name for path in tmp_path.iterdir())
    with staging_folder(tmp_path, "store"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == before
