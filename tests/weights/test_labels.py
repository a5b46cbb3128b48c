"""What the classes are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from movinet_convert import convert, create_model, load_converted, save_weights
from movinet_convert.errors import UsageError
from movinet_convert.model.fuse import fuse
from movinet_convert.weights.file import read_header
from movinet_convert.weights.hub import HubMoViNet
from movinet_convert.weights.labels import (
    ClassIndex,
    class_names,
    given_names,
    kinetics_600,
    read_labels,
)
from tests.helpers.seeded import choices, write_checkpoint

NAMES = ("resting", "standing", "drinking", "feeding", "lying", "walking", "ruminating")


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
        (b"cat\n", r"names 1 classes, but the model has 2 \(line 1 is the last\)"),
        (b"cat\ndog\ncow\n", r"3 classes, but the model has 2 \(line 3 is one too many\)"),
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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of seven classes, next to a file with their names."""
    folder = tmp_path_factory.mktemp("seven")
    (folder / "names.txt").write_text("\n".join(NAMES))
    return write_checkpoint(folder / "checkpoint", "a0-stream")


def converted(checkpoint: Path, out: Path, labels: Path | None) -> Path:
    keras = choices("a0-stream")
    result = convert("a0-stream", checkpoint, **keras, labels=labels, out=out, parity=None)
    return result.stored.path


def test_converted_file_keeps_labels(checkpoint: Path, tmp_path: Path) -> None:
    path = converted(checkpoint, tmp_path, checkpoint.parent / "names.txt")
    assert read_header(path).labels == NAMES
    model = load_converted(path)
    assert model.labels == NAMES
    assert fuse(model).labels == NAMES
    assert load_converted(path, num_classes=7).labels == NAMES
    assert load_converted(path, num_classes=9).labels is None


def test_labels_of_model_are_saved_with_it(checkpoint: Path, tmp_path: Path) -> None:
    model = load_converted(converted(checkpoint, tmp_path, checkpoint.parent / "names.txt"))
    assert load_converted(save_weights(model, tmp_path / "a.safetensors")).labels == NAMES
    HubMoViNet.of(model).save_pretrained(tmp_path / "hub")
    assert HubMoViNet.from_pretrained(tmp_path / "hub").labels == NAMES
    other = tuple("abcdefg")
    assert HubMoViNet.of(model, other).labels == other
    path = save_weights(model, tmp_path / "b.safetensors", labels=other)
    assert load_converted(path).labels == other


def test_wrong_number_of_labels_is_refused_before_writing(checkpoint: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES[:6]))
    with pytest.raises(UsageError, match=r"names\.txt names 6 classes, but the model has 7"):
        converted(checkpoint, tmp_path / "store", names)
    assert not (tmp_path / "store").exists()
    model = create_model("t0-stream", num_classes=7)
    with pytest.raises(UsageError, match="2 labels were given for 7 classes"):
        save_weights(model, tmp_path / "a.safetensors", labels=("a", "b"))
    with pytest.raises(UsageError, match="2 labels were given for 7 classes"):
        HubMoViNet.of(model.eval(), ("a", "b"))


def test_labels_are_unknown_unless_a_file_has_them_or_600_classes(tmp_path: Path) -> None:
    for count, names in ((600, kinetics_600()), (7, None)):
        model = create_model("t0-base", num_classes=count)
        assert model.labels is None
        path = save_weights(model, tmp_path / f"{count}.safetensors")
        assert read_header(path).labels is None
        assert load_converted(path).labels == names


def test_given_labels_may_be_a_sequence_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("cat\ndog\n")
    for given in (["cat", "dog"], tmp_path / "names", str(tmp_path / "names")):
        assert given_names(given, 2) == ("cat", "dog")
    assert given_names(None, 2) is None
