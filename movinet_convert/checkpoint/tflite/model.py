"""The content of a TFLite file as plain values: tensors, and operators in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from movinet_convert.checkpoint.random_access import Bytes
from movinet_convert.checkpoint.tensor_source import Array

FUSED = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")  # schema: ActivationFunctionType
DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT32": np.dtype("<f4"),
    "FLOAT16": np.dtype("<f2"),
    "INT8": np.dtype("i1"),
    "UINT8": np.dtype("u1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
}


@dataclass(frozen=True)
class Quantization:
    """Real values are ``scales * (stored - zero_points)``, one pair or one for each index."""

    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int


@dataclass(frozen=True)
class Tensor:
    """A tensor; ``data`` are the bytes of a constant."""

    shape: tuple[int, ...]
    type: str
    quantization: Quantization | None = None
    data: Bytes | None = field(default=None, repr=False)

    @property
    def stored(self) -> Array:
        """The constant as stored, before its quantization is undone."""
        assert self.data is not None
        values: Array = self.data.view(DTYPES[self.type]).reshape(self.shape)
        return values

    @property
    def readable(self) -> bool:
        """Whether ``real`` can give the values: they are floating point or quantized numbers."""
        floating = self.type in ("FLOAT32", "FLOAT16")
        known = floating or (self.type in DTYPES and self.quantization is not None)
        return self.data is not None and known

    def real(self) -> NDArray[np.float32]:
        """The values of a readable constant as float32."""
        values, quantization = self.stored, self.quantization
        if quantization is None or self.type in ("FLOAT32", "FLOAT16"):
            return values.astype(np.float32)
        shape = [1] * values.ndim
        if quantization.scales.size > 1:
            shape[quantization.axis] = -1
        # Exact but for the last rounding: 8 and 16 bits fit float32, biases need more.
        exact: Array = values.astype(np.float32 if values.itemsize < 4 else np.float64)
        exact -= quantization.zero_points.reshape(shape)
        with np.errstate(over="ignore"):
            exact *= quantization.scales.reshape(shape)
            return exact.astype(np.float32)


@dataclass(frozen=True)
class Operator:
    """``inputs`` are indices of tensors, -1 where an optional one is absent."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int]


@dataclass(frozen=True)
class Model:
    """The only graph of a file, in the order of execution."""

    where: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
