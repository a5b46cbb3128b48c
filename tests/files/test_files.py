"""Only regular files are opened, and files are replaced atomically."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from movinet_convert.errors import WeightsError
from movinet_convert.files.reading import open_regular
from movinet_convert.files.writing import move_together, replacing


def test_opens_file_through_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "link", WeightsError) as file:
        assert file.read() == b"content"


def test_refuses_pipe_and_folder_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match=r"pipe is a named pipe, not a file"):
        open_regular(tmp_path / "pipe", WeightsError)
    with pytest.raises(WeightsError, match=r"is a folder, not a file"):
        open_regular(tmp_path, WeightsError)


def test_replaced_file_has_permissions_of_new_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    (tmp_path / "new").touch()
    with replacing(target) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("done")
    assert target.read_text() == "done"
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "new"}


def test_failed_write_leaves_target_unchanged(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(OSError, match="disk is full"):
        _write_half(target)
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_replaces_link_but_not_its_target(tmp_path: Path) -> None:
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


PAIR = ("net.xml", "net.bin")


def pair(folder: Path, content: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in PAIR:
        (folder / name).write_text(content)
    return [folder / name for name in PAIR]


def complete_sets(folder: Path) -> list[str]:
    """Contents of the pairs in a folder; fails if two generations are mixed."""
    found = []
    for opened in folder.glob("*.xml"):
        beside = opened.with_suffix(".bin")
        if beside.exists():
            assert beside.read_text() == opened.read_text()
            found.append(opened.read_text())
    return found


def move_pair(folder: Path) -> None:
    written = pair(folder / "staging", "new")
    move_together([(path, folder / path.name) for path in written])


def test_new_set_replaces_earlier_set(tmp_path: Path) -> None:
    pair(tmp_path, "old")
    move_pair(tmp_path)
    assert complete_sets(tmp_path) == ["new"]
    assert {path.name for path in tmp_path.iterdir()} == {*PAIR, "staging"}


@pytest.mark.parametrize("step", range(4))
def test_failed_move_restores_earlier_set(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair(tmp_path, "old")
    rename, calls = Path.rename, iter(range(100))

    def failing(self: Path, target: Path) -> Path:
        if next(calls) == step:
            raise OSError("the disk is full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="disk is full"):
        move_pair(tmp_path)
    assert complete_sets(tmp_path) == ["old"]
    assert {path.name for path in tmp_path.iterdir()} == {*PAIR, "staging"}


@pytest.mark.parametrize("step", range(4))
def test_kill_during_move_never_mixes_two_sets(tmp_path: Path, step: int) -> None:
    pair(tmp_path, "old")
    child = os.fork()
    if child == 0:
        rename, calls = Path.rename, iter(range(100))
        Path.rename = (  # type: ignore[method-assign, assignment]
            lambda self, target: os._exit(9) if next(calls) == step else rename(self, target)
        )
        move_pair(tmp_path)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    kept = {path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    complete_sets(tmp_path)
    assert "old" in kept
    move_pair(tmp_path)  # and leftovers do not block it
    assert "new" in complete_sets(tmp_path)
