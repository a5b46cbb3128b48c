"""The checkpoint at a path is detected from the content, or the error says why not."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.errors import CheckpointError
from tests.checkpoint.bundle_writer import small_movinet, write_bundle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "ein Ordner für MoViNet"
    folder.mkdir()
    write_bundle(folder / "ckpt-1", small_movinet())
    return folder


def state(folder: Path, path: str) -> None:
    (folder / "checkpoint").write_text(
        f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "{path}"\n'
    )


@pytest.mark.parametrize("name", ["", "ckpt-1", "ckpt-1.index", "ckpt-1.data-00000-of-00001"])
def test_accepts_folder_prefix_index_and_data_file(folder: Path, name: str) -> None:
    assert open_checkpoint(folder / name).arch == "a0"


def test_accepts_path_as_string(folder: Path) -> None:
    opened = open_checkpoint(str(folder))
    assert opened.source == folder


def test_state_file_selects_checkpoint(folder: Path) -> None:
    write_bundle(folder / "ckpt-2", small_movinet(24))
    state(folder, "ckpt-2")
    assert open_checkpoint(folder).arch == "a1"


def test_follows_absolute_path_in_state_file_inside_folder(folder: Path) -> None:
    state(folder, str(folder / "ckpt-1").replace("ü", "\\303\\274"))
    assert open_checkpoint(folder).arch == "a0"


@pytest.mark.parametrize("path", ["../ckpt-1", "/etc/ckpt-1", "", "a/../../ckpt-1"])
def test_refuses_state_file_path_outside_folder(folder: Path, path: str) -> None:
    state(folder, path)
    with pytest.raises(CheckpointError, match="not inside"):
        open_checkpoint(folder)


def test_names_missing_checkpoint_of_state_file(folder: Path) -> None:
    state(folder, "ckpt-9")
    with pytest.raises(CheckpointError, match=r"ckpt-9\.index is missing"):
        open_checkpoint(folder)


def test_refuses_other_state_file(folder: Path) -> None:
    (folder / "checkpoint").write_bytes(b"\x80\x04binary")
    with pytest.raises(CheckpointError, match="model_checkpoint_path"):
        open_checkpoint(folder)


def test_lists_several_checkpoints_without_state_file(folder: Path) -> None:
    write_bundle(folder / "ckpt-2", small_movinet())
    with pytest.raises(CheckpointError, match="ckpt-1, ckpt-2"):
        open_checkpoint(folder)


def test_reports_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is empty"):
        open_checkpoint(tmp_path)


def test_refuses_folder_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        open_checkpoint(tmp_path)


def test_reports_text_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Dear diary,\n")
    with pytest.raises(CheckpointError, match="it is a text file"):
        open_checkpoint(tmp_path / "notes.txt")


def test_reports_empty_file(tmp_path: Path) -> None:
    (tmp_path / "ckpt.tar.gz").touch()
    with pytest.raises(CheckpointError, match="it is empty"):
        open_checkpoint(tmp_path / "ckpt.tar.gz")


def test_refuses_unknown_binary_file(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(CheckpointError, match="not recognised"):
        open_checkpoint(tmp_path / "weights.bin")


def test_names_missing_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        open_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001"])
@pytest.mark.parametrize("kind", ["named pipe", "device"])
def test_reports_pipe_or_device_in_place_of_file(folder: Path, name: str, kind: str) -> None:
    """Reading a pipe without writer, or a device, would never end."""
    file = folder / name
    file.unlink(missing_ok=True)
    if kind == "device":
        file.symlink_to("/dev/zero")
    else:
        os.mkfifo(file)
    with pytest.raises(CheckpointError, match=f"{name} is a {kind}, not a file"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["x", "x.h5", "x.pt", "x.tar", "x.index"])
def test_refuses_pipe_or_device(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="is a named pipe, not a file"):
        open_checkpoint(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="is a device, not a file"):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["x\0y", "x" * 300], ids=["nul", "long"])
def test_impossible_file_name_does_not_exist(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["x\0y", "x" * 300], ids=["nul", "long"])
def test_refuses_impossible_file_name_in_state_file(folder: Path, name: str) -> None:
    state(folder, name)
    with pytest.raises(CheckpointError, match=r"\.index is missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "line",
    [
        "\n",
        " \n",
        "model_checkpoint_path\n",
        'model_checkpoint_path:"\\\n',
        'model_checkpoint_path: "a',
    ],
    ids=["newlines", "spaces", "keys", "escapes", "open-quotes"],
)
def test_reads_long_state_file_in_linear_time(folder: Path, line: str) -> None:
    (folder / "checkpoint").write_text(line * ((1 << 20) // len(line)))
    start = time.process_time()
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)
    assert time.process_time() - start < 2  # it took hours to look for the end of every line
