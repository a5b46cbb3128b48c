"""TFLite files of either converter: the metadata in them, and LiteRT's interpreter."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from movinet_convert.errors import ExportError
from movinet_convert.export.metadata import KEY
from movinet_convert.files.extras import missing_extra
from movinet_convert.files.reading import open_regular

Array = NDArray[Any]


def parse(content: bytes) -> Any:
    """The ``ModelT`` of a file that a converter just wrote, a view of it."""
    # Weights that are arrays are written at once, those that are bytes one by one.
    array = np.frombuffer(content, np.uint8)
    return _import("tools.flatbuffer_utils").read_model_from_bytearray(array)


def count_8_bit_convolutions(model: Any) -> int:
    """How many convolutions of a ``ModelT`` read 8-bit weights as such, to compute with them."""
    (graph,), kinds = model.subgraphs, operator_kinds(model)
    int8 = _import("schema_py_generated").TensorType.INT8
    return sum(
        kinds[operator.opcodeIndex] == "CONV_2D" and graph.tensors[operator.inputs[1]].type == int8
        for operator in graph.operators
    )


def operator_kinds(model: Any) -> list[str]:
    """The name of every operator code of a ``ModelT``, such as ``CONV_2D``."""
    numbers = vars(_import("schema_py_generated").BuiltinOperator).items()
    names = {number: name for name, number in numbers if not name.startswith("_")}
    return [names[code.builtinCode] for code in model.operatorCodes]


def with_metadata(model: Any, metadata: str) -> bytes:
    """The file of a ``ModelT``, with the metadata."""
    tools = _import("tools.flatbuffer_utils")
    schema, described = tools.schema_fb, copy.copy(model)
    buffer = schema.BufferT(data=np.frombuffer(metadata.encode(), np.uint8))
    entry = schema.MetadataT(name=KEY.encode(), buffer=len(model.buffers))
    described.buffers = [*model.buffers, buffer]
    described.metadata = [*(model.metadata or []), entry]
    return bytes(tools.convert_object_to_bytearray(described))


def read_metadata(path: Path, *images: str) -> str:
    """The metadata of a file whose signature takes frames by one of the names ``images``.

    That input tells the files of TensorFlow's converter and of ``litert-torch`` apart. Raises
    ExportError for another file, and any exception for a damaged one.
    """
    import tflite

    with open_regular(path, ExportError) as file:
        model = tflite.Model.GetRootAs(file.read(), 0)
    signature = model.SignatureDefs(0)
    inputs = {signature.Inputs(i).Name().decode() for i in range(signature.InputsLength())}
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == KEY.encode() and not inputs.isdisjoint(images):
            return bytes(model.Buffers(entry.Buffer()).DataAsNumpy()).decode()
    raise ExportError(f"{path} has no {KEY} metadata for a signature with {images[0]}.")


def _import(module: str) -> Any:
    try:
        return importlib.import_module(f"ai_edge_litert.{module}")
    except ImportError as error:
        raise missing_extra("Running TFLite files", "export") from error


class Interpreter:
    """LiteRT's interpreter, called through the only signature of a file."""

    def __init__(self, path: Path, threads: int | None) -> None:
        interpreter = _import("interpreter")
        with open_regular(path, ExportError) as file:
            content = file.read()
        self._interpreter = interpreter.Interpreter(model_content=content, num_threads=threads)
        self._interpreter.allocate_tensors()
        signature = self._interpreter.get_signature_runner()
        details = signature.get_input_details()
        self.shapes = {name: tuple(map(int, d["shape"])) for name, d in details.items()}
        self.inputs = {name: d["index"] for name, d in details.items()}
        self.outputs = {n: d["index"] for n, d in signature.get_output_details().items()}

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays by name, in and out; the outputs are copies."""
        for name, index in self.inputs.items():
            self._interpreter.set_tensor(index, inputs[name])
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(i) for name, i in self.outputs.items()}
