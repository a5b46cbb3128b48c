"""What the classes are called."""

from __future__ import annotations

import pytest

from movinet_convert.errors import UsageError
from movinet_convert.labels import class_index, class_names, kinetics_600


def test_kinetics_has_600_different_names_in_alphabetical_order() -> None:
    names = kinetics_600()
    assert len(set(names)) == 600
    assert names[0] == "abseiling"
    assert names[-1] == "zumba"
    assert list(names) == sorted(names, key=str.lower)


def test_a_file_that_carries_labels_is_believed() -> None:
    assert class_names(["cat", "dog"], 2) == ("cat", "dog")


def test_600_classes_without_labels_are_those_of_kinetics() -> None:
    assert class_names(None, 600) == kinetics_600()


def test_other_classes_without_labels_are_numbered() -> None:
    assert class_names(None, 2) == ("class 0", "class 1")


@pytest.mark.parametrize("written", ["playing guitar", "Playing_Guitar", " playing  guitar "])
def test_a_name_is_found_however_folders_spell_it(written: str) -> None:
    assert kinetics_600()[class_index(written, kinetics_600())] == "playing guitar"


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UsageError, match="no class 'flying'"):
        class_index("flying", ("running", "walking"))
