"""Damage TFLite files: bytes, words of the flatbuffer, and the graph before it is written.

Offsets and counts are words of four bytes, so words are overwritten with hostile numbers or with
other words of the file. A graph that is damaged before it is written is a valid flatbuffer of
nonsense.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import tflite

from movinet_convert.variants import ARCHS
from scripts.tflite_writer import TINY, StreamWriter

Bytes = Callable[[random.Random, bytes], bytes]
_SIZES = (-1, 0, 1, 2, 3, 255, 1 << 16, (1 << 31) - 1, -(1 << 31))
_WORDS = (0, 1, 4, 8, 0x7F, 0xFF, 0xFFFF, (1 << 31) - 1, 1 << 31, (1 << 32) - 4, (1 << 32) - 1)
_TYPES = [name for name in vars(tflite.TensorType) if name.isupper()]
_KINDS = [name for name in vars(tflite.BuiltinOperator) if name.isupper()]


def with_tiny() -> Any:
    """A context in which the writer's architecture is one of the family."""
    return mock.patch.dict(ARCHS, tiny=TINY)


def mutate(rng: random.Random, data: bytes, mutate_bytes: Bytes) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return mutate_bytes(rng, data)
    return _words(rng, data) if kind == 1 else _graph(rng)


def _words(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    words = len(out) // 4
    # Most words are weights: half of the time near the start or the end, where the tables are.
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(words) if rng.randrange(2) else rng.choice((1, -1)) * rng.randrange(2000)
        at = 4 * (at % words)
        source = 4 * rng.randrange(words)
        other = bytes(out[source : source + 4])
        number = rng.choice(_WORDS).to_bytes(4, "little")
        out[at : at + 4] = rng.choice((other, number))
    return bytes(out)


def _graph(rng: random.Random) -> bytes:
    writer = StreamWriter(_spec(rng), gating=rng.choice(("keras", "model-garden")))
    outputs = writer.build()
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        rng.choice(_CHANGES)(rng, writer)
    if rng.randrange(20) == 0:
        outputs = [_index(rng, writer) for _ in range(rng.choice((0, 1, 2, 300)))]
    return writer.write(outputs)


def _spec(rng: random.Random) -> Any:
    """The small architecture, or one that differs in a size."""
    if rng.randrange(4):
        return TINY
    first, *others = TINY.stages
    kernel = rng.choice(((1, 3, 3), (3, 3, 3), (7, 5, 5)))
    layers = tuple((rng.choice((8, 16, 40)), kernel) for _ in range(rng.randint(1, 3)))
    changed = replace(first, width=rng.choice((8, 16)), stride=rng.choice((1, 2)), layers=layers)
    return replace(TINY, stem=rng.choice((4, 8)), stages=(changed, *others))


# --- damage to the parts of a graph ---------------------------------------------------------------


def _index(rng: random.Random, writer: StreamWriter) -> int:
    return rng.choice((rng.randrange(-2, len(writer.tensors) + 2), -1, 1 << 30))


def _tensor(rng: random.Random, writer: StreamWriter) -> dict[str, Any]:
    return rng.choice(writer.tensors)


def _change_shape(rng: random.Random, writer: StreamWriter) -> None:
    tensor = _tensor(rng, writer)
    shape = list(tensor["shape"]) or [1]
    shape[rng.randrange(len(shape))] = rng.choice(_SIZES)
    tensor["shape"] = tuple(rng.choice((shape, shape[1:], shape * 2, shape * 9, [])))


def _change_type(rng: random.Random, writer: StreamWriter) -> None:
    _tensor(rng, writer)["type"] = rng.choice(_TYPES)


def _change_data(rng: random.Random, writer: StreamWriter) -> None:
    tensor = _tensor(rng, writer)
    data = tensor.get("data", b"\0" * 64)
    tensor["data"] = rng.choice((b"", data[:-1], data * 2, b"\xff" * len(data), bytes(len(data))))


def _change_quantization(rng: random.Random, writer: StreamWriter) -> None:
    tensor = _tensor(rng, writer)
    sizes = (1, 2, *tensor["shape"][:1], 100_000)
    scales = np.full(abs(rng.choice(sizes)) % 200_000, rng.choice((0.0, 1.0, np.nan, np.inf)))
    found = {"scales": scales.astype(np.float32), "axis": rng.choice((-1, 0, 3, 1 << 20))}
    tensor["quantization"] = found
    tensor["sparse"] = rng.randrange(8) == 0


def _change_operator(rng: random.Random, writer: StreamWriter) -> None:
    operator = rng.choice(writer.operators)
    kind = rng.choice((rng.choice(_KINDS), rng.choice(writer.operators)["kind"]))
    operator["kind"], operator["options"] = kind, {}


def _change_options(rng: random.Random, writer: StreamWriter) -> None:
    operator = rng.choice([found for found in writer.operators if found["options"]])
    option = rng.choice(list(operator["options"]))
    operator["options"][option] = rng.choice((0, 1, 2, 3, 5, 17, 100))


def _change_operands(rng: random.Random, writer: StreamWriter) -> None:
    operands = rng.choice(writer.operators)[rng.choice(("inputs", "inputs", "outputs"))]
    if operands:  # an earlier change may have removed them
        operands[rng.randrange(len(operands))] = _index(rng, writer)
    if rng.randrange(4) == 0:
        operands[:] = rng.choice(([], operands[:1], operands[::-1], operands * 100))


def _change_order(rng: random.Random, writer: StreamWriter) -> None:
    a, b = (rng.randrange(len(writer.operators)) for _ in range(2))
    operators = writer.operators
    operators[a], operators[b] = operators[b], operators[a]
    if rng.randrange(2):
        del operators[a]


def _grow(rng: random.Random, writer: StreamWriter) -> None:
    """A long chain of reshapes in front of one operator, or thousands of unused parts."""
    count = rng.choice((100, 3000, 11_000))
    kind = rng.randrange(3)
    if kind == 0:
        writer.operators += [rng.choice(writer.operators)] * count
    elif kind == 1:
        part = {key: _tensor(rng, writer)[key] for key in ("shape", "type")}
        writer.tensors += [dict(part) for _ in range(count)]
    else:
        at = rng.randrange(len(writer.operators))
        rest = writer.operators[at:]
        del writer.operators[at:]
        tensor = rest[0]["inputs"][0] if rest[0]["inputs"] else 0
        for _ in range(min(count, 3000)):
            tensor = writer.add("RESHAPE", (tensor,), writer.shape(tensor))
        rest[0]["inputs"][:1] = [tensor]
        writer.operators += rest


_CHANGES = (
    _change_shape,
    _change_type,
    _change_data,
    _change_quantization,
    _change_operator,
    _change_options,
    _change_operands,
    _change_order,
    _grow,
)
