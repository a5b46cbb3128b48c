"""``tflite``: by TensorFlow's converter, from the official stream model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from movinet_convert.errors import ExportError
from movinet_convert.export import tflite_file
from movinet_convert.export.official import (
    IMAGE,
    official_model,
    signature_shapes,
    stream_run,
)
from movinet_convert.export.runtime import Job, Run, Save
from movinet_convert.export.step import network
from movinet_convert.model.transforms import CHANNELS
from movinet_convert.parity.official import import_tensorflow


def convert(job: Job) -> Save:
    """The signature takes ``image`` (1, T, H, W, 3) and the states of the official model.

    It returns ``logits`` and the next states under the same names; all start as zeros.
    """
    modules = import_tensorflow("Exporting to TFLite")
    tf, shape = modules.tf, (1, job.program.frames, *job.program.size, CHANNELS)
    official = official_model(modules, network(job.program), shape)

    def step(inputs: Mapping[str, Any]) -> dict[str, Any]:
        logits, states = official(inputs)
        return {**states, "logits": logits}

    specs = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in official.initial_state_specs(shape).items()
    }
    specs[IMAGE] = tf.TensorSpec(shape, official.dtype, name=IMAGE)
    # The converter needs one signature. The official exporter saves the Keras model, which traces
    # every layer several times: the same file in ten times the time.
    module = tf.Module()
    module.weights = official.variables
    with tempfile.TemporaryDirectory(prefix="movinet-tflite-") as saved:
        signature = tf.function(step, jit_compile=True).get_concrete_function(specs)
        tf.saved_model.save(module, saved, signatures=signature)
        content: bytes = tf.lite.TFLiteConverter.from_saved_model(saved).convert()

    def save(path: Path, metadata: str) -> dict[str, Any]:
        path.write_bytes(tflite_file.with_metadata(tflite_file.parse(content), metadata))
        return {}

    return save


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """The file contains no code but operators of the runtime, so ``trusted`` does not matter."""
    interpreter, metadata = tflite_file.Interpreter(path, threads), read_metadata(path)
    if interpreter.shapes != signature_shapes(interpreter.shapes, metadata, str(path)):
        raise ExportError(f"{path} has a signature that export did not write; export it again.")
    return stream_run(interpreter, list(interpreter.inputs), metadata, str(path))


def read_metadata(path: Path) -> str:
    return tflite_file.read_metadata(path, IMAGE)
