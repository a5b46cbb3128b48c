"""The operators of a TFLite graph, from a tensor back to what computed it.

Every function returns None where the graph is not what it looks for. Reshapes, and changes between
float and 8 bits, are looked through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from movinet_convert.checkpoint.tflite.model import FUSED, Model, Operator, Tensor

_VIEWS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "QUANTIZE", "DEQUANTIZE")
# Between PyTorch's order of axes and TensorFlow's; no other transposition is looked through.
_CHANNEL_MOVES = ((0, 2, 1), (0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 3, 4, 1), (0, 4, 1, 2, 3))
_MAX_INTEGERS = 32
TOLERANCE = 0.01  # of a known constant, which may be stored in 8 bits


@dataclass
class Graph:
    """A model's graph."""

    model: Model

    def __post_init__(self) -> None:
        self._producers = {t: found for found in self.model.operators for t in found.outputs}
        self._sources: dict[int, int] = {}
        for found in self.model.operators:  # in order, so that a chain of views is followed once
            if self._is_view(found):
                self._sources[found.outputs[0]] = self.source(found.inputs[0])

    # --- tensors ----------------------------------------------------------------------------------

    def source(self, tensor: int) -> int:
        """The first tensor with the same values, in front of reshapes and changes of type."""
        return self._sources.get(tensor, tensor)

    def operator(self, tensor: int, *kinds: str) -> Operator | None:
        """The operator that computed ``tensor``, if it is one of ``kinds`` and has inputs."""
        found = self._producers.get(self.source(tensor))
        if found is None or found.kind not in kinds or not found.inputs or found.inputs[0] < 0:
            return None
        return found

    def constant(self, tensor: int) -> Tensor | None:
        """The constant that ``tensor`` has the values of, as it is stored."""
        found = self.model.tensors[self.source(tensor)]
        return None if found.data is None else found

    def is_constant(self, tensor: int) -> bool:
        return self.model.tensors[self.source(tensor)].data is not None

    def is_state(self, tensor: int) -> bool:
        """Whether ``tensor`` is an input of the graph."""
        return self.source(tensor) in self.model.inputs

    def same(self, a: int, b: int) -> bool:
        """Whether two tensors have the same values."""
        return self.source(a) == self.source(b)

    def shape(self, tensor: int) -> tuple[int, ...]:
        return self.model.tensors[tensor].shape

    def elements(self, tensor: int) -> int:
        return math.prod(self.shape(tensor))

    def integers(self, tensor: int) -> tuple[int, ...]:
        """The values of a small constant of integers; () if it is something else."""
        found = self.model.tensors[tensor]
        small = found.data is not None and self.elements(tensor) <= _MAX_INTEGERS
        if not small or found.type not in ("INT32", "INT64"):
            return ()
        return tuple(map(int, found.stored.flat))

    def _is_view(self, found: Operator) -> bool:
        if found.kind not in (*_VIEWS, "CUMSUM") or not found.inputs or not found.outputs:
            return False
        if min(found.inputs[0], found.outputs[0]) < 0:
            return False
        if self.elements(found.inputs[0]) != self.elements(found.outputs[0]):
            return False
        if found.kind not in ("TRANSPOSE", "CUMSUM"):
            return True
        parameter = self.integers(found.inputs[1]) if len(found.inputs) == 2 else ()
        if found.kind == "TRANSPOSE":
            return parameter in _CHANNEL_MOVES
        shape = self.shape(found.inputs[0])  # a sum over one frame
        one = len(parameter) == 1 and shape[parameter[0] :][:1] == (1,)
        return one and not found.options["Exclusive"]

    # --- arithmetic -------------------------------------------------------------------------------

    def unary(self, tensor: int, *kinds: str) -> int | None:
        """The (first) input of the operator that computed ``tensor``."""
        found = self.operator(tensor, *kinds)
        return found.inputs[0] if found is not None else None

    def binary(self, tensor: int, kind: str, fused: str = "NONE") -> tuple[int, int] | None:
        """The operands of the arithmetic operator that computed ``tensor``."""
        found = self.operator(tensor, kind)
        if found is None or len(found.inputs) != 2 or min(found.inputs) < 0:
            return None
        if found.options.get("FusedActivationFunction", 0) != FUSED.index(fused):
            return None
        return found.inputs[0], found.inputs[1]

    def either_way(self, tensor: int, kind: str) -> tuple[tuple[int, int], ...]:
        """The operands in both orders; () if ``tensor`` is not computed by ``kind``."""
        found = self.binary(tensor, kind)
        return (found, found[::-1]) if found else ()

    def with_constant(
        self, tensor: int, kind: str, fused: str = "NONE"
    ) -> tuple[int, Tensor] | None:
        """The variable and the constant operand of the operator that computed ``tensor``."""
        found = self.binary(tensor, kind, fused)
        for other, constant in (found, found[::-1]) if found else ():
            if self.is_constant(constant) and not self.is_constant(other):
                value = self.constant(constant)
                assert value is not None
                return other, value
        return None

    def with_scalar(
        self, tensor: int, kind: str, value: float | None = None, fused: str = "NONE"
    ) -> tuple[int, Tensor] | None:
        """As ``with_constant``, for a single number, which must be near ``value`` if given."""
        found = self.with_constant(tensor, kind, fused)
        if found is None or math.prod(found[1].shape) != 1 or not found[1].readable:
            return None
        return None if value is not None and not is_near(found[1], value) else found


def is_near(constant: Tensor, value: float) -> bool:
    """Whether a readable scalar is ``value``, up to the rounding of 8 bits."""
    return bool(np.isclose(constant.real(), value, rtol=TOLERANCE, atol=0).all())
