"""What the classes of a model are called."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from movinet_convert.errors import UsageError
from movinet_convert.variants import KINETICS_600_CLASSES

if TYPE_CHECKING:
    from collections.abc import Sequence

KINETICS_600_FILE = "kinetics_600_labels.txt"


@cache
def kinetics_600() -> tuple[str, ...]:
    """The class names of Kinetics-600, in the order of the released models' logits."""
    text = resources.files("movinet_convert") / "data" / KINETICS_600_FILE
    return tuple(text.read_text(encoding="utf-8").splitlines())


def class_names(labels: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """The labels a file gives, or those of Kinetics-600 if it has 600 classes, or numbers."""
    if labels is not None:
        return tuple(labels)
    if num_classes == KINETICS_600_CLASSES:
        return kinetics_600()
    return tuple(f"class {i}" for i in range(num_classes))


def class_index(name: str, names: Sequence[str]) -> int:
    """The index of a class given by its name, in any case and with ``_`` for spaces.

    Raises UsageError where no class is called so.
    """
    wanted = _plain(name)
    for i, known in enumerate(names):
        if _plain(known) == wanted:
            return i
    raise UsageError(
        f"There is no class {name!r} among the {len(names)} of this model "
        f"({', '.join(names[:3])}, …)."
    )


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
