"""What the classes are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from movinet_convert.errors import UsageError
from movinet_convert.weights.labels import ClassIndex, class_names, kinetics_600, read_labels


def test_kinetics_has_600_unique_names_in_alphabetical_order() -> None:
    names = kinetics_600()
    assert len(set(names)) == 600
    assert names[0] == "abseiling"
    assert names[-1] == "zumba"
    assert list(names) == sorted(names, key=str.lower)


def test_uses_labels_of_file() -> None:
    assert class_names(["cat", "dog"], 2) == ("cat", "dog")


def test_600_classes_without_labels_are_kinetics() -> None:
    assert class_names(None, 600) == kinetics_600()


def test_other_classes_without_labels_are_numbered() -> None:
    assert class_names(None, 2) == ("class 0", "class 1")


@pytest.mark.parametrize("written", ["playing guitar", "Playing_Guitar", " playing  guitar "])
def test_matches_names_as_spelled_in_folders(written: str) -> None:
    assert kinetics_600()[ClassIndex(kinetics_600()).of_name(written)] == "playing guitar"


def test_unknown_name_is_an_error() -> None:
    with pytest.raises(UsageError, match="no class 'flying'"):
        ClassIndex(("running", "walking")).of_name("flying")


def test_refuses_ambiguous_name_with_both_candidates() -> None:
    with pytest.raises(UsageError, match=r"'a_b' \(index 0\) or 'A b' \(index 2\)"):
        ClassIndex(("a_b", "c", "A b")).of_name("a_b")


def test_number_that_is_not_a_name_is_an_index() -> None:
    assert ClassIndex(("cat", "dog")).of_label("1") == 1


def test_number_that_is_a_name_is_that_name_unless_index_of_another() -> None:
    names = ClassIndex(("10", "1", "7"))
    assert [names.of_label("10"), names.of_label("1"), names.of_label("7")] == [0, 1, 2]
    with pytest.raises(UsageError, match="'1' is the name of the class with index 0 and the index"):
        ClassIndex(("1", "0")).of_label("1")
    assert ClassIndex(("1", "0")).of_index("1") == 1


@pytest.mark.parametrize("written", ["2", "-1", "²", "9" * 5000])
def test_refuses_index_out_of_range(written: str) -> None:
    with pytest.raises(UsageError):
        ClassIndex(("cat", "dog")).of_label(written)


def test_reads_one_label_per_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffchat\r\nchien à poil\r\n".encode())
    assert read_labels(path, 2) == ("chat", "chien à poil")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"cat\n", "names 1 classes, but the model has 2"),
        (b"cat\ncat\n", "line 2: 'cat' is already the name in line 1"),
        (b"cat\n\n", "line 2: the name is missing"),
        (b"cat\nd\xf6g\n", "line 2: byte 0xf6 is not UTF-8"),
        ("cat\ndog\n".encode("utf-16"), "line 1: the file is UTF-16"),
        (b"cat\nd\0g\n", "line 2: there is a NUL byte"),
    ],
)
def test_refuses_invalid_labels_file_with_line_number(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=fault):
        read_labels(path, 2)
