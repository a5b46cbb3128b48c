"""The names of a model's classes, and the lookup of a class by name or index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from movinet_convert.errors import UsageError
from movinet_convert.files.reading import read_text
from movinet_convert.variants import KINETICS_600_CLASSES

INDEX_COLUMN = "class_index"
MAX_INDEX_DIGITS = 9
MAX_SHOWN = 60  # characters of a label in an error
MAX_LABELS_BYTES = 64 << 20  # a million long names

Labels = Sequence[str] | str | os.PathLike[str]  # class names, or a file with one per line


@cache
def kinetics_600() -> tuple[str, ...]:
    """The class names of Kinetics-600, in the order of the released models' logits."""
    text = resources.files("movinet_convert") / "weights" / "kinetics_600_labels.txt"
    return tuple(text.read_text(encoding="utf-8").splitlines())


def known_names(labels: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    """The labels of a file if it has any, those of Kinetics-600 for 600 classes, else None."""
    if labels is not None:
        return tuple(labels)
    return kinetics_600() if num_classes == KINETICS_600_CLASSES else None


def class_names(labels: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """As ``known_names``, but ``class 0``, ``class 1``, … where no names are known."""
    names = known_names(labels, num_classes)
    return names if names is not None else tuple(f"class {i}" for i in range(num_classes))


def unnamed(what: str, num_classes: int) -> str:
    """A sentence for classes without names: how to give them."""
    return (
        f"{what} has no names for its {num_classes} classes; give them with --labels FILE, one per "
        "line. A file that is converted with --labels keeps them."
    )


def given_names(labels: Labels | None, num_classes: int) -> tuple[str, ...] | None:
    """The labels that a caller gave, one for each class; None if it gave none.

    Raises UsageError for another number of labels, and as ``read_labels`` for a file.
    """
    if labels is None:
        return None
    if isinstance(labels, str | os.PathLike):
        return read_labels(Path(labels), num_classes)
    if len(labels) != num_classes:
        raise UsageError(
            f"{len(labels)} labels were given for {num_classes} classes; give one for each, in "
            "the order of the logits."
        )
    return tuple(labels)


def read_labels(path: Path, num_classes: int | None = None) -> tuple[str, ...]:
    """Read class names from a UTF-8 file, one per line in the order of the logits.

    Raises UsageError if the file cannot be read or does not name each class exactly once; the
    number of names may be any if ``num_classes`` is None.
    """
    lines = read_text(path, MAX_LABELS_BYTES).removesuffix("\n").split("\n")
    names = tuple(line.strip() for line in lines)
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise UsageError(f"{path}, line {number}: the name is missing; give one per line.")
        if first.setdefault(name, number) != number:
            raise UsageError(
                f"{path}, line {number}: {_shown(name)} is already the name in line {first[name]}; "
                "give every class a different name."
            )
    if num_classes is not None and len(names) != num_classes:
        last = min(len(names), num_classes + 1)
        end = "is one too many" if len(names) > num_classes else "is the last"
        raise UsageError(
            f"{path} names {len(names)} classes, but the model has {num_classes} (line {last} "
            f"{end}); give one name per line, in the order of the logits."
        )
    return names


class ClassIndex:
    """Looks up a model's classes by name or index.

    Names match in any case and with ``_`` for spaces. Ambiguous labels raise UsageError.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._by_name: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            self._by_name.setdefault(_normalized(name), []).append(i)

    def of_name(self, name: str) -> int:
        """The index of the class with this name; UsageError if there is none or several."""
        found = self._by_name.get(_normalized(name), [])
        if not found:
            examples = ", ".join(map(_shown, self._names[:3]))
            raise UsageError(
                f"There is no class {_shown(name)} among the {len(self._names)} of this model "
                f"({examples}, …)."
            )
        if len(found) > 1:
            first, second = (f"{_shown(self._names[i])} (index {i})" for i in found[:2])
            raise UsageError(
                f"{_shown(name)} could be {first} or {second}, which differ only in case, spaces "
                f"and _; give the index in a column {INDEX_COLUMN} of a CSV file."
            )
        return found[0]

    def of_label(self, label: str) -> int:
        """The index of the class with this name; a number that is not a name is the index itself.

        Raises UsageError as ``of_name``, and for a name that is also the index of another class.
        """
        index = _parse_index(label)
        if index is not None and _normalized(label) not in self._by_name:
            return self.of_index(label)
        named = self.of_name(label)
        if index is not None and index != named and index < len(self._names):
            raise UsageError(
                f"{_shown(label)} is the name of the class with index {named} and the index of "
                f"{_shown(self._names[index])}; give the index in a column {INDEX_COLUMN} instead."
            )
        return named

    def of_index(self, text: str) -> int:
        """Parse a class index in decimal digits; UsageError if it is out of range."""
        index = _parse_index(text)
        if index is None or index >= len(self._names):
            raise UsageError(
                f"{_shown(text)} is not a class index; expected 0 to {len(self._names) - 1}."
            )
        return index


def _parse_index(text: str) -> int | None:
    text = text.strip()
    is_index = text.isascii() and text.isdecimal() and len(text) <= MAX_INDEX_DIGITS
    return int(text) if is_index else None


def _normalized(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def _shown(name: str) -> str:
    return repr(name if len(name) <= MAX_SHOWN else name[:MAX_SHOWN] + "…")
