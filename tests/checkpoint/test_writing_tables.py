"""Tables written here read back exactly, and are the same bytes as TensorFlow's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from movinet_convert.checkpoint.random_access import ByteRange
from movinet_convert.checkpoint.sstable import encode_table, read_table

if TYPE_CHECKING:
    from pathlib import Path

KEYS = st.binary(max_size=40) | st.text("ab/", max_size=60).map(str.encode)


def written_and_read(entries: list[tuple[bytes, bytes]], folder: Path) -> list[tuple[bytes, bytes]]:
    path = folder / "table"
    path.write_bytes(encode_table(entries))
    return read_table(ByteRange.of_path(path))


@given(st.dictionaries(KEYS, st.binary(max_size=100), max_size=80))
@settings(max_examples=100, deadline=None)
def test_any_entries_round_trip(
    tmp_path_factory: pytest.TempPathFactory, table: dict[bytes, bytes]
) -> None:
    entries = sorted(table.items())
    assert written_and_read(entries, tmp_path_factory.mktemp("table")) == entries


def test_table_of_many_blocks_round_trips(tmp_path: Path) -> None:
    entries = [(f"variable/{i:05d}".encode(), bytes([i % 251]) * 300) for i in range(4000)]
    assert written_and_read(entries, tmp_path) == entries


def test_refuses_keys_out_of_order() -> None:
    with pytest.raises(ValueError, match="must increase"):
        encode_table([(b"b", b""), (b"a", b"")])


def test_tensorflow_writes_the_same_bytes(released: Path) -> None:
    index = released.with_name(f"{released.name}.index")
    assert encode_table(read_table(ByteRange.of_path(index))) == index.read_bytes()
