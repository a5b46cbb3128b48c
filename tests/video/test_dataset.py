"""CSV files and folders of labelled videos."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from movinet_convert.errors import UsageError
from movinet_convert.video.dataset import LabelledVideo, read_dataset

NAMES = ("red", "light green", "blue")
KINETICS = b"label,youtube_id,time_start,time_end\n"


def read(folder: Path, content: bytes, names: tuple[str, ...] = NAMES) -> list[LabelledVideo]:
    table = folder / "list.csv"
    table.write_bytes(content)
    return read_dataset(table, names)


def test_a_label_is_a_name_or_an_index(tmp_path: Path) -> None:
    rows = b"\xef\xbb\xbflabel,path\r\nred,a.mp4\r\nLight_Green,b.mp4\r\n2,c.mp4\r\n"
    assert [video.label for video in read(tmp_path, rows)] == [0, 1, 2]


def test_a_class_index_is_never_read_as_a_name(tmp_path: Path) -> None:
    rows = b"class_index,path\n1,a.mp4\n"
    assert [video.label for video in read(tmp_path, rows, ("1", "0"))] == [1]


def test_class_folders_are_named_after_their_class(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "a.mp4").touch()
    assert [video.label for video in read_dataset(tmp_path, ("1", "0"))] == [0]
    with pytest.raises(UsageError, match="no class '1'"):
        read_dataset(tmp_path, NAMES)


FAULTS = {
    "missing field": (b"label,path\nred,a.mp4\nred\n", "line 3: there are 1 fields for 2 columns"),
    "comma in a path": (b"label,path\nred,a,b.mp4\n", "line 2: there are 3 fields for 2 columns"),
    "no path": (b"label,path\nred,\n", "line 2: the field path is empty"),
    "ambiguous columns": (
        b"label,path,label\nred,a,blue\n",
        "line 1: there are two columns 'label'",
    ),
    "open quote": (b'label,path\nred,"a.mp4\nred,b.mp4\n', "line 3: unexpected end of data"),
    "latin-1": ("label,path\nred,é.mp4\n".encode("latin-1"), "line 2: byte 0xe9 is not UTF-8"),
    "utf-16": ("label,path\n".encode("utf-16"), "line 1: the file is UTF-16"),
    "NUL": (b"label,path\nred,a\0.mp4\n", "line 2: there is a NUL byte"),
    "long field": (b"label,path\nred," + b"a" * 5000, "line 2: a field has 5000 characters"),
    "very long field": (b"label,path\nred," + b"a" * 200_000, "line 2: field larger than"),
    "same video": (b"label,path\nred,a\n\nblue,a\n", "line 4: a is already listed in line 2"),
    "endless": (KINETICS + b"red,x,0,inf\n", "line 2: time_end is 'inf'; expected whole seconds"),
    "not a number": (KINETICS + b"red,x,nan,1\n", "line 2: time_start is 'nan'"),
    "negative": (KINETICS + b"red,x,-4,1\n", "line 2: time_start is '-4'"),
    "huge": (KINETICS + b"red,x,0,1e300\n", "line 2: time_end is '1e300'"),
    "part of a second": (KINETICS + b"red,x,0.5,1\n", "line 2: time_start is '0.5'"),
    "backwards": (KINETICS + b"red,x,14,4\n", "line 2: .*time_start before time_end"),
    "no id": (KINETICS + b"red,,4,14\n", "line 2: expected a youtube_id"),
    "index beyond": (
        b"label,path\n3,a.mp4\n",
        "line 2: '3' is not a class index; expected 0 to 2",
    ),
    "empty": (b"", "has no labelled videos"),
    "header only": (b"label,path\n", "has no labelled videos"),
}


@pytest.mark.parametrize(("content", "fault"), FAULTS.values(), ids=FAULTS)
def test_an_invalid_csv_file_is_rejected_with_the_line_number(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    with pytest.raises(UsageError, match=fault) as raised:
        read(tmp_path, content)
    assert len(str(raised.value)) < 500


def test_a_pipe_instead_of_a_csv_file_is_rejected(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.csv")
    with pytest.raises(UsageError, match="is a named pipe"):
        read_dataset(tmp_path / "list.csv", NAMES)
