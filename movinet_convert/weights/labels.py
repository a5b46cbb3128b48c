"""What the classes of a model are called, and which class a label means."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from movinet_convert.errors import UsageError
from movinet_convert.files.text import read_text
from movinet_convert.variants import KINETICS_600_CLASSES

KINETICS_600_FILE = "kinetics_600_labels.txt"
INDEX_COLUMN = "class_index"
MAX_INDEX_DIGITS = 9
MAX_SHOWN = 60  # characters of a label in an error
MAX_LABELS_BYTES = 64 << 20  # a million long names


@cache
def kinetics_600() -> tuple[str, ...]:
    """The class names of Kinetics-600, in the order of the released models' logits."""
    text = resources.files("movinet_convert") / "weights" / KINETICS_600_FILE
    return tuple(text.read_text(encoding="utf-8").splitlines())


def class_names(labels: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """The labels a file gives, or those of Kinetics-600 if it has 600 classes, or numbers."""
    if labels is not None:
        return tuple(labels)
    if num_classes == KINETICS_600_CLASSES:
        return kinetics_600()
    return numbered(num_classes)


def numbered(num_classes: int) -> tuple[str, ...]:
    """The names of classes that nobody has named."""
    return tuple(f"class {i}" for i in range(num_classes))


def read_labels(path: Path, num_classes: int) -> tuple[str, ...]:
    """The names of a model's classes from a UTF-8 file, one a line in the order of its logits.

    Raises UsageError where the file cannot be read, or does not name each class once.
    """
    lines = read_text(path, MAX_LABELS_BYTES).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    names = tuple(line.strip() for line in lines)
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise UsageError(f"{path}, line {number}: there is no name; give one class a line.")
        if name in first:
            raise UsageError(
                f"{path}, line {number}: {_shown(name)} is the name of line {first[name]} already; "
                "give every class a name of its own."
            )
        first[name] = number
    if len(names) != num_classes:
        raise UsageError(
            f"{path} names {len(names)} classes where the model has {num_classes}; give one name a "
            "line, in the order of the logits."
        )
    return names


class ClassIndex:
    """Finds the class that a label means, among the names of a model's classes.

    A name is found in any case and with ``_`` for spaces. What could mean two classes is refused.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._by_name: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            self._by_name.setdefault(_plain(name), []).append(i)

    def of_name(self, name: str) -> int:
        """The index of the class called so; UsageError where none is, or more than one."""
        found = self._by_name.get(_plain(name), [])
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
        """The index of the class called so, or, of a number that is no name, of that index.

        Raises UsageError as ``of_name``, and for the name of a class that is another's index.
        """
        number = _number(label)
        if number is not None and _plain(label) not in self._by_name:
            return self.of_index(label)
        named = self.of_name(label)
        if number is not None and number != named and number < len(self._names):
            raise UsageError(
                f"{_shown(label)} is the name of the class of index {named}, and the index of "
                f"{_shown(self._names[number])}; give the index in a column {INDEX_COLUMN} instead."
            )
        return named

    def of_index(self, text: str) -> int:
        """The class of an index that is written out; UsageError where there is none."""
        index = _number(text)
        if index is None or index >= len(self._names):
            raise UsageError(
                f"{_shown(text)} is no index of a class; expected 0 to {len(self._names) - 1}."
            )
        return index


def _number(text: str) -> int | None:
    text = text.strip()
    if text.isascii() and text.isdecimal() and len(text) <= MAX_INDEX_DIGITS:
        return int(text)
    return None


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def _shown(name: str) -> str:
    return repr(name if len(name) <= MAX_SHOWN else name[:MAX_SHOWN] + "…")
