"""Opening files that may be none, and replacing files in one step."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from movinet_convert.errors import WeightsError
from movinet_convert.files import open_regular, replacing


def test_a_file_is_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "link", WeightsError) as file:
        assert file.read() == b"content"


def test_a_pipe_and_a_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match=r"pipe is a named pipe, not a file"):
        open_regular(tmp_path / "pipe", WeightsError)
    with pytest.raises(WeightsError, match=r"is a folder, not a file"):
        open_regular(tmp_path, WeightsError)


def test_a_replaced_file_has_the_permissions_of_a_new_one(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    (tmp_path / "new").touch()
    with replacing(target) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("done")
    assert target.read_text() == "done"
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "new"}


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(OSError, match="disk is full"):
        _write_half(target)
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    link = tmp_path / "link.txt"
    link.symlink_to("precious")
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert not link.is_symlink()
    assert (tmp_path / "precious").read_text() == "kept"


def _write_half(target: Path) -> None:
    with replacing(target) as temporary:
        temporary.write_text("half")
        raise OSError("the disk is full")
