"""Check a pickle of tensors before it is loaded.

``torch.load(weights_only=True)`` runs no code from the file, but lets it call a few functions that
allocate far more memory than the file has: ``bytearray(1 << 40)``, or a copy of a large dict for
every three bytes. A state dict needs none of them: it references storages, rebuilds tensors on
them, and creates empty dicts.
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

# A state dict of an A5 has 1,493 tensors of some 40 opcodes and two calls each; with an
# optimizer and a moving average it is four times that.
_MAX_OPCODES = 500_000
_MAX_CALLS = 65_536
_MAX_BUILDS = 64  # one per state dict, for its metadata

_TOO_MANY = "it has more objects than any MoViNet"

_Opcode = tuple[str, Any]


class UnsafePickleError(ValueError):
    """The pickle contains something that a state dict of tensors does not."""


def scan(file: BinaryIO) -> None:
    """Check the pickle at the position of ``file``; UnsafePickleError, or ValueError if damaged."""
    calls = builds = 0
    for name, argument in _without_empty_dicts(_opcodes(file)):
        calls += name in ("REDUCE", "NEWOBJ")
        builds += name == "BUILD"
        if calls > _MAX_CALLS or builds > _MAX_BUILDS:
            raise UnsafePickleError(_TOO_MANY)
        if name == "GLOBAL":
            requested = ".".join(str(argument).split(" "))
            if not _ALLOWED.fullmatch(requested):
                raise UnsafePickleError(f"it uses {_printable(requested)}")


def _opcodes(file: BinaryIO) -> Iterator[_Opcode]:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > _MAX_OPCODES:
            raise UnsafePickleError(_TOO_MANY)
        yield opcode.name, argument


def _without_empty_dicts(opcodes: Iterator[_Opcode]) -> Iterator[_Opcode]:
    """The opcodes without those that create an empty OrderedDict.

    The class is imported the first time and read from the memo after that. It must be followed by
    an empty argument tuple and the call: any other argument would be copied.
    """
    memo_keys: set[Any] = set()  # of the class
    for name, argument in opcodes:
        is_class = name == "GLOBAL" and argument == _EMPTY_DICT_CLASS
        if not is_class and not (name in ("BINGET", "LONG_BINGET") and argument in memo_keys):
            if name in ("BINPUT", "LONG_BINPUT"):
                memo_keys.discard(argument)
            yield name, argument
            continue
        after, value = next(opcodes, ("", None))
        while after in ("BINPUT", "LONG_BINPUT"):
            memo_keys.add(value)
            after, value = next(opcodes, ("", None))
        if after != "EMPTY_TUPLE" or next(opcodes, ("", None))[0] != "REDUCE":
            raise UnsafePickleError("it fills a dict in an unusual way")
        yield "REDUCE", None


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:100])
