"""Checkpoints written here are what TensorFlow itself would have written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.checkpoint.model_garden import write_checkpoint
from movinet_convert.checkpoint.tensor_bundle import write_bundle
from movinet_convert.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = {
    "stem/_stem/_conv/_conv/kernel": np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1),
    "classifier_head/_classifier/_conv/_conv/bias": np.zeros(4, np.float32),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_tensorflow_reads_every_dtype(dtype: str, tmp_path: Path) -> None:
    import tensorflow as tf

    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_bundle(tmp_path, "x", {"b": array, "a": array[0, 0, 1]})
    reader = tf.train.load_checkpoint(str(tmp_path / "x"))
    for name, expected in (("b", array), ("a", array[0, 0, 1])):
        assert reader.get_tensor(name).dtype == expected.dtype
        np.testing.assert_array_equal(reader.get_tensor(name), expected)


def test_tensorflow_reads_strings(tmp_path: Path) -> None:
    import tensorflow as tf

    for text in (b"", b"short", b"x" * 70_000):
        write_bundle(tmp_path, "x", {"text": text})
        assert tf.train.load_checkpoint(str(tmp_path / "x")).get_tensor("text") == text


def test_writes_transposed_arrays_in_logical_order(tmp_path: Path) -> None:
    import tensorflow as tf

    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    write_bundle(tmp_path, "x", {"a": array})
    np.testing.assert_array_equal(
        tf.train.load_checkpoint(str(tmp_path / "x")).get_tensor("a"), array
    )


def test_opens_exported_folder_like_a_release(released: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    opened = open_checkpoint(released)
    folder = tmp_path / "movinet_a0_stream"
    prefix = write_checkpoint(folder, "a0", opened.variables)
    assert tf.train.latest_checkpoint(str(folder)) == str(prefix)
    again = open_checkpoint(folder)
    assert (again.layout, again.arch) == ("model-garden", "a0")
    assert set(again.variables) == set(opened.variables)


def test_equal_weights_give_equal_files_and_replace_older_ones(tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path / "a", "a0", VARIABLES)
    other = {name: array + 1 for name, array in VARIABLES.items()}
    write_checkpoint(tmp_path / "b", "a0", other)
    second = write_checkpoint(tmp_path / "b", "a0", VARIABLES)
    names = sorted(path.name for path in first.parent.iterdir())
    assert names == ["checkpoint", "ckpt-1.data-00000-of-00001", "ckpt-1.index"]
    assert names == sorted(path.name for path in second.parent.iterdir())
    for name in names:
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes()


def test_does_not_write_into_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(UsageError, match=r"thesis\.tex.*name a new or an empty folder"):
        write_checkpoint(tmp_path, "a0", VARIABLES)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_does_not_overwrite_file_with_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("here first")
    with pytest.raises(UsageError, match="is a file"):
        write_checkpoint(target, "a0", VARIABLES)
    assert target.read_text() == "here first"
