"""What a pickle of tensors may do, judged before it is run.

``torch.load(weights_only=True)`` runs no code that a file brings along, but calls a few functions
for it that make much out of little: ``bytearray(1 << 40)``, or a copy of a large dict for every
three bytes. A state dict needs none of them: it names storages, rebuilds tensors on them, and makes
empty dicts.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

_EMPTY_DICT_CLASS = "collections OrderedDict"
_ALLOWED = re.compile(
    r"torch\.[a-z_0-9]+|torch\.\w+Storage|torch\.storage\.\w+Storage|torch\._utils\._rebuild_\w+"
    r"|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter"
    r"|torch\.serialization\._get_layout"
)

# A state dict of an A5 has 1,493 tensors of some 40 opcodes and two calls each; an optimizer and a
# moving average beside it make it four times that.
_MAX_OPCODES = 500_000
_MAX_CALLS = 65_536
_MAX_BUILDS = 64  # one for the metadata of each state dict

_TOO_MANY = "it has more objects than any MoViNet"

_Opcode = tuple[str, Any]


class UnsafePickleError(ValueError):
    """What the pickle does that a state dict of tensors does not."""


def scan(file: BinaryIO) -> None:
    """Check the pickle at the position of ``file``; UnsafePickleError, or ValueError if damaged."""
    calls = builds = 0
    for name, argument in _without_empty_dicts(_opcodes(file)):
        calls += name in ("REDUCE", "NEWOBJ")
        builds += name == "BUILD"
        if calls > _MAX_CALLS or builds > _MAX_BUILDS:
            raise UnsafePickleError(_TOO_MANY)
        if name == "GLOBAL":
            asked = ".".join(str(argument).split(" "))
            if not _ALLOWED.fullmatch(asked):
                raise UnsafePickleError(f"it asks for {_printable(asked)}")


def _opcodes(file: BinaryIO) -> Iterator[_Opcode]:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > _MAX_OPCODES:
            raise UnsafePickleError(_TOO_MANY)
        yield opcode.name, argument


def _without_empty_dicts(opcodes: Iterator[_Opcode]) -> Iterator[_Opcode]:
    """The opcodes but for those that make an empty OrderedDict.

    The class is named the first time and fetched from the memo after that. What follows it must be
    an empty argument and the call: any other argument would be copied.
    """
    places: set[Any] = set()  # in the memo, of the class
    for name, argument in opcodes:
        is_class = name == "GLOBAL" and argument == _EMPTY_DICT_CLASS
        if not is_class and not (name in ("BINGET", "LONG_BINGET") and argument in places):
            if name in ("BINPUT", "LONG_BINPUT"):
                places.discard(argument)
            yield name, argument
            continue
        after, value = next(opcodes, ("", None))
        while after in ("BINPUT", "LONG_BINPUT"):
            places.add(value)
            after, value = next(opcodes, ("", None))
        if after != "EMPTY_TUPLE" or next(opcodes, ("", None))[0] != "REDUCE":
            raise UnsafePickleError("it fills a dict in an unusual way")
        yield "REDUCE", None


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:100])
