"""A damaged or crafted bundle gives one clear error, before memory is allocated for it."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.checkpoint.random_access import Folder
from movinet_convert.checkpoint.tensor_bundle import BundleReader
from movinet_convert.errors import CheckpointError
from tests.checkpoint.bundle_writer import (
    RawEntry,
    Table,
    header,
    small_movinet,
    varint,
    write_bundle,
    write_raw,
)

if TYPE_CHECKING:
    from pathlib import Path

STEM = "model/layer_with_weights-0/layer_with_weights-0/_stem/_conv/kernel"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "ckpt-1", small_movinet())


def index_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def data_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.data-00000-of-00001")


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def read_all(path: Path) -> None:
    for array in open_checkpoint(path).variables.values():
        assert array.size


def test_reads_undamaged_bundle(prefix: Path) -> None:
    opened = open_checkpoint(prefix)
    np.testing.assert_array_equal(opened.variables["stem/_stem/_conv/kernel"], np.arange(6.0))
    assert opened.arch == "a0"


def test_names_missing_shard(prefix: Path) -> None:
    data_of(prefix).unlink()
    with pytest.raises(CheckpointError, match=r"ckpt-1\.data-00000-of-00001 is missing"):
        open_checkpoint(prefix)


def test_names_missing_index(prefix: Path) -> None:
    index_of(prefix).unlink()
    with pytest.raises(CheckpointError, match=r"ckpt-1\.index is missing"):
        open_checkpoint(prefix)


def test_flipped_byte_in_data_names_file_and_variable(prefix: Path) -> None:
    flip(data_of(prefix), 3)
    with pytest.raises(CheckpointError, match=rf"data-00000-of-00001: .*'{STEM}"):
        read_all(prefix)


def test_flipped_byte_in_index_names_file(prefix: Path) -> None:
    flip(index_of(prefix), 40)
    with pytest.raises(CheckpointError, match=r"ckpt-1\.index is damaged: the checksum"):
        read_all(prefix)


def test_truncated_data_names_first_incomplete_variable(prefix: Path) -> None:
    data_of(prefix).write_bytes(data_of(prefix).read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"_classifier/_conv/bias.*truncated"):
        open_checkpoint(prefix)


def test_data_truncated_after_opening_is_an_error(prefix: Path) -> None:
    opened = open_checkpoint(prefix)
    with data_of(prefix).open("r+b") as file:
        file.truncate(4)
    with pytest.raises(CheckpointError, match="ended at byte"):
        dict(opened.variables)


@pytest.mark.parametrize("keep", [0, 7, 47, 100])
def test_truncated_index_is_not_an_index(prefix: Path, keep: int) -> None:
    index = index_of(prefix)
    index.write_bytes(index.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"ckpt-1\.index is not the index"):
        open_checkpoint(prefix)


def test_refuses_overlapping_variables(tmp_path: Path) -> None:
    """A thousand variables of the whole data file would take a thousand times its memory."""
    entry = RawEntry(shape=(2,), size=8)
    for offset in (0, 4):
        write_raw(tmp_path / "x", {"a": entry, "b": replace(entry, offset=offset)}, bytes(16))
        with pytest.raises(CheckpointError, match="'b' overlaps variable 'a'"):
            BundleReader(Folder(tmp_path).open, "x")


def test_empty_variables_may_share_an_offset(tmp_path: Path) -> None:
    empty = RawEntry(shape=(0,), size=0)
    write_raw(tmp_path / "x", {"a": RawEntry(), "b": empty, "c": empty}, bytes(4))
    assert BundleReader(Folder(tmp_path).open, "x").names == ("a", "b", "c")


def assert_refused(tmp_path: Path, entry: RawEntry, match: str) -> None:
    prefix = write_raw(tmp_path / "x", {"tensor": entry}, bytes(4))
    with pytest.raises(CheckpointError, match=match):
        BundleReader(Folder(tmp_path).open, prefix.name)


def test_refuses_terabyte_tensor_before_allocation(tmp_path: Path) -> None:
    elements = 1 << 38
    entry = RawEntry(shape=(elements,), size=4 * elements)
    tracemalloc.start()
    assert_refused(tmp_path, entry, "'tensor' should be 1,099,511,627,776 bytes")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"shape": (2,)}, "8 bytes, but claims 4 bytes"),
        ({"shape": (-1, -1)}, "impossible shape"),
        ({"shape": (1,) * 9}, "more than 8 axes"),
        ({"shape": (0, 1 << 62)}, "impossible shape"),
        ({"shape": (0, 2)}, "claims 4 bytes"),
        ({"offset": 1}, "should be 4 bytes at offset 1"),
        ({"offset": -4}, "at offset -4"),
        ({"size": -4}, "claims -4 bytes"),
        ({"shard": 1}, "shard 1 of 1"),
        ({"shard": -1}, "shard -1 of 1"),
        ({"dtype": 20}, "unknown data type 20"),
        ({"dtype": 0}, "unknown data type 0"),
        ({"extra": b"\x3a\x00"}, "slices"),
        ({"extra": b"\x3a\x7f"}, "damaged entry"),
        ({"extra": b"\x00"}, "damaged entry"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_refuses_entry_that_contradicts_file(
    tmp_path: Path, change: dict[str, object], match: str
) -> None:
    assert_refused(tmp_path, replace(RawEntry(), **change), match)  # type: ignore[arg-type]


def test_reads_empty_tensor(tmp_path: Path) -> None:
    write_bundle(tmp_path / "x", {"t": np.zeros((0, 3), np.float32)})
    assert BundleReader(Folder(tmp_path).open, "x").read("t").shape == (0, 3)


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (header(endianness=1), "big-endian"),
        (header(min_consumer=2), "bundle version 2"),
        (header(shards=0), "claims 0 data files"),
        (b"\xff", "header is damaged"),
    ],
    ids=["big-endian", "newer-version", "no-shards", "garbage"],
)
def test_refuses_unsupported_header(tmp_path: Path, head: bytes, match: str) -> None:
    write_raw(tmp_path / "x", {"t": RawEntry()}, bytes(4), head)
    with pytest.raises(CheckpointError, match=match):
        BundleReader(Folder(tmp_path).open, "x")


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (Table([(b"", header()), (b"t", RawEntry().encode())], compression=1), "snappy"),
        (Table([(b"", header()), (b"t", RawEntry().encode())], compression=9), "unknown compr"),
        (Table([(b"t", RawEntry().encode())]), "no bundle header"),
        (Table([]), "no bundle header"),
        (Table([(b"", header()), (b"b", b""), (b"a", b"")]), "not in order"),
        (Table([(b"", header()), (b"a", b""), (b"a", b"")]), "not in order"),
        (Table([(b"", header()), (b"a" * 5000, b"")]), "longer than any"),
    ],
    ids=["snappy", "unknown-compression", "headless", "empty", "unordered", "twice", "long-key"],
)
def test_refuses_table_that_is_not_a_bundle_index(tmp_path: Path, table: Table, match: str) -> None:
    (tmp_path / "x.index").write_bytes(table.encode())
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(4))
    with pytest.raises(CheckpointError, match=match):
        BundleReader(Folder(tmp_path).open, "x")


def test_refuses_ever_growing_keys_before_memory_grows(tmp_path: Path) -> None:
    """Prefix compression lets three bytes on disk stand for a key of any length."""
    first = b"\0" + b"\0" * 4000
    body = varint(0) + varint(len(first)) + varint(0) + first
    grow = b"".join(
        varint(4000) + varint(2) + varint(0) + i.to_bytes(2, "big") for i in range(60000)
    )
    content = body + grow + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    table = Table([(b"", header())])
    out = bytearray()
    handle = table._append(out, content)
    index = table._append(out, b"\0\1" + varint(len(handle)) + b"z" + handle + b"\0\0\0\0\1\0\0\0")
    footer = (index + index).ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")
    (tmp_path / "x.index").write_bytes(bytes(out) + footer)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="longer than any"):
        BundleReader(Folder(tmp_path).open, "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("blocks", [1, 13, 16, 60])
def test_reports_block_count_of_no_movinet(tmp_path: Path, blocks: int) -> None:
    write_bundle(tmp_path / "x", small_movinet(blocks))
    with pytest.raises(CheckpointError, match=f"has {blocks} blocks"):
        open_checkpoint(tmp_path / "x")


@pytest.mark.parametrize(
    ("arch", "blocks"),
    [("t0", 14), ("a0", 15), ("a1", 24), ("a2", 26), ("a3", 33), ("a4", 47), ("a5", 59)],
)
def test_block_count_determines_architecture(tmp_path: Path, arch: str, blocks: int) -> None:
    write_bundle(tmp_path / "x", small_movinet(blocks))
    assert open_checkpoint(tmp_path / "x").arch == arch


def test_names_missing_layer(tmp_path: Path) -> None:
    arrays = small_movinet()
    arrays = {name: array for name, array in arrays.items() if "weights-7/" not in name}
    write_bundle(tmp_path / "x", arrays)
    with pytest.raises(CheckpointError, match=r"no .*layer_with_weights-7"):
        open_checkpoint(tmp_path / "x")


def test_names_variable_of_another_model(tmp_path: Path) -> None:
    extra = {"decoder/kernel/.ATTRIBUTES/VARIABLE_VALUE": np.zeros(2, np.float32)}
    write_bundle(tmp_path / "x", {**small_movinet(), **extra})
    with pytest.raises(CheckpointError, match="'decoder/kernel'"):
        open_checkpoint(tmp_path / "x")


def test_refuses_two_backbones(tmp_path: Path) -> None:
    arrays = small_movinet()
    copy = {name.replace("model/", "teacher/", 1): array for name, array in arrays.items()}
    write_bundle(tmp_path / "x", {**arrays, **copy})
    with pytest.raises(CheckpointError, match="2 MoViNet backbones"):
        open_checkpoint(tmp_path / "x")


def test_names_two_keys_of_one_variable(tmp_path: Path) -> None:
    """The shorter is the TensorFlow 1 name; neither may silently take precedence."""
    bare = STEM.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
    write_bundle(tmp_path / "x", {**small_movinet(), bare: np.zeros(6, np.float32)})
    with pytest.raises(CheckpointError, match=rf"both '{bare}' and '{bare}/\.ATTRIBUTES"):
        open_checkpoint(tmp_path / "x")


CLASSIFIER = "layer_with_weights-1/_classifier/_conv/bias/.ATTRIBUTES/VARIABLE_VALUE"


def test_reads_variable_stored_twice_with_equal_values_once(tmp_path: Path) -> None:
    arrays = small_movinet()
    arrays[f"copy/{CLASSIFIER}"] = arrays[f"model/{CLASSIFIER}"]
    opened = open_checkpoint(write_bundle(tmp_path / "x", arrays))
    stored = opened.variables.stored_name("classifier_head/_classifier/_conv/bias")
    assert {stored, *opened.ignored} == {f"copy/{CLASSIFIER}", f"model/{CLASSIFIER}"}


def test_refuses_variable_stored_twice_with_different_values(tmp_path: Path) -> None:
    arrays = small_movinet()
    arrays[f"copy/{CLASSIFIER}"] = arrays[f"model/{CLASSIFIER}"] + 1
    write_bundle(tmp_path / "x", arrays)
    with pytest.raises(CheckpointError, match=f"'copy/{CLASSIFIER}' and 'model/{CLASSIFIER}'"):
        open_checkpoint(tmp_path / "x")


def test_refuses_another_model(tmp_path: Path) -> None:
    write_bundle(tmp_path / "x", {"dense/kernel": np.zeros((2, 2), np.float32)})
    with pytest.raises(CheckpointError, match=r"not one of a MoViNet.*'dense/kernel'"):
        open_checkpoint(tmp_path / "x")


def test_refuses_huge_layer_number_quickly(tmp_path: Path) -> None:
    extra = f"model/layer_with_weights-0/layer_with_weights-{10**15}/_project/_conv/kernel"
    arrays = {**small_movinet(), extra: np.zeros(2, np.float32)}
    write_bundle(tmp_path / "x", arrays)
    with pytest.raises(CheckpointError, match="neither a MoViNet"):
        open_checkpoint(tmp_path / "x")


def test_refuses_string_in_place_of_array(tmp_path: Path) -> None:
    entry = RawEntry(dtype=7, size=4)
    write_raw(tmp_path / "x", {"t": entry}, bytes(4))
    reader = BundleReader(Folder(tmp_path).open, "x")
    with pytest.raises(CheckpointError, match="is a string"):
        reader.read("t")
    with pytest.raises(CheckpointError, match="checksum"):
        reader.read_string("t")


def test_checksums_match_published_values() -> None:
    """Known answers of the leveldb and RFC 3720 (B.4) test vectors."""
    from movinet_convert.checkpoint.sstable import crc32c, mask

    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"hello ") != mask(crc32c(b"hello "))
    assert crc32c(b"world", crc32c(b"hello ")) == crc32c(b"hello world")
    assert mask(0) == 0xA282EAD8
