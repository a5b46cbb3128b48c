"""A mistake, the variants it can be made in, and how a module of ours is made wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from movinet_convert.model import MoViNet

# A small and a larger stream, one with positional encoding, and a base model. Few classes: the
# mistakes are in the network before them.
STREAM = ("a0-stream", "a2-stream", "a3-stream")
BASE = ("a0-base",)
EVERY = (*STREAM, *BASE)


@dataclass(frozen=True)
class Mistake:
    """``make`` turns a correct network (eval mode, float32) into a wrong one, in place."""

    name: str
    variants: tuple[str, ...]
    make: Callable[[MoViNet], object]


def become(module: nn.Module, **methods: Any) -> None:
    """Give one module other methods; unlike a patched attribute, a deep copy keeps them its own."""
    kind = type(module)
    module.__class__ = type(f"Wrong{kind.__name__}", (kind,), methods)


def original(wrong: nn.Module) -> Any:
    """The class that a wrong module was made of."""
    return type(wrong).__mro__[1]
