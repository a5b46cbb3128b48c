"""The names of exports, and what stands there before."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from safetensors import SafetensorError

from movinet_convert.checkpoint.model_garden import write_checkpoint
from movinet_convert.errors import ExportError, UsageError
from movinet_convert.export.outputs import file_names, folder_name, staged, staged_folder
from tests.helpers.seeded import variables


def fail_in(staging: AbstractContextManager[Path]) -> None:
    with staging as written:
        written.write_text("half")
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("given", "suffixes", "expected"),
    [
        ("movinet-v1.2", [".onnx"], ["movinet-v1.2.onnx"]),
        ("movinet-v1.2.onnx", [".onnx"], ["movinet-v1.2.onnx"]),
        ("a.ONNX", [".onnx"], ["a.ONNX"]),
        ("v1.2", [".xml", ".bin"], ["v1.2.xml", "v1.2.bin"]),
        ("v1.2.xml", [".xml", ".bin"], ["v1.2.xml", "v1.2.bin"]),
        (".hidden", [".pte"], [".hidden.pte"]),
        ("folder", [".pte"], ["folder/a0-stream.pte"]),
        ("folder-1.2", [".xml", ".bin"], ["folder-1.2/a0-stream.xml", "folder-1.2/a0-stream.bin"]),
    ],
)
def test_a_suffix_is_appended_and_never_replaced(
    given: str, suffixes: list[str], expected: list[str], tmp_path: Path
) -> None:
    for folder in ("folder", "folder-1.2"):
        (tmp_path / folder).mkdir()
    found = file_names(tmp_path / given, suffixes, "a0-stream", "a format")
    assert found == [tmp_path / name for name in expected]


@pytest.mark.parametrize("name", ["a.pt2", "a.safetensors", "a.bin", "a.tflite", "a.foo"])
def test_the_suffix_of_another_format_is_rejected(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"but onnx writes .onnx; name it a.onnx"):
        file_names(tmp_path / name, [".onnx"], "a0-stream", "onnx")


def test_a_folder_is_not_named_like_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="writes a folder"):
        folder_name(tmp_path / "a.pt2", "saved-model")


def test_a_file_that_was_not_named_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_text("precious")
    with pytest.raises(UsageError, match=r"net.bin exists without the net.xml"):
        file_names(tmp_path / "net", [".xml", ".bin"], "a0-stream", "openvino")


def test_a_failed_export_changes_nothing(tmp_path: Path) -> None:
    files = [tmp_path / "net.xml", tmp_path / "net.bin"]
    for file in files:
        file.write_text("before")
    with pytest.raises(ZeroDivisionError):
        fail_in(staged(files, "openvino"))
    assert [file.read_text() for file in files] == ["before", "before"]
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_a_full_disk_under_safetensors_is_an_export_error(tmp_path: Path) -> None:
    full = SafetensorError("I/O error: No space left on device (os error 28)")
    with (
        pytest.raises(ExportError, match=r"could not be written into .*No space left on device"),
        staged_folder(tmp_path / "a", "transformers"),
    ):
        raise full
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_in(staged_folder(tmp_path / "a", "saved-model"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    with staged_folder(tmp_path / "a", "saved-model") as written:
        written.mkdir()
        (written / "saved_model.pb").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "saved_model.pb"]


def test_a_parent_that_is_not_a_folder_raises_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ExportError, match="onnx could not be written into"),
        staged([tmp_path / "file" / "a.onnx"], "onnx"),
    ):
        pass


def test_leftover_temporary_files_do_not_block_an_export(tmp_path: Path) -> None:
    weights = variables("t0-base")
    write_checkpoint(tmp_path, "t0", weights)
    (tmp_path / ".movinet-export-01234567").mkdir()
    (tmp_path / ".unfinished-abc").mkdir()
    aside = tmp_path / "ckpt-1.previous-01234567.index"
    aside.touch()
    write_checkpoint(tmp_path, "t0", weights)
    names = {path.name for path in tmp_path.iterdir()}
    complete = {"checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001"}
    assert names == complete | {".unfinished-abc", aside.name}
