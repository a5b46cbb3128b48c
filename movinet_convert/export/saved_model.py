"""``saved-model``: a folder that Google's exporter writes, for any clip.

Source of the exporter: ``official/projects/movinet/tools/export_saved_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from movinet_convert.errors import ExportError, UsageError
from movinet_convert.export.metadata import KEY
from movinet_convert.export.official import (
    IMAGE,
    image_of,
    official_model,
    stream_run,
)
from movinet_convert.export.runtime import Job, Run, Save
from movinet_convert.export.step import Program, clip_program, network
from movinet_convert.files.reading import read_text
from movinet_convert.model import MoViNet
from movinet_convert.parity.official import ANY_CLIP, import_tensorflow

Array = NDArray[Any]
# TensorFlow leaves this folder of a SavedModel to other programs.
METADATA = Path("assets.extra") / f"{KEY}.json"
MOST_METADATA = 1 << 20  # bytes
FRAMES_CHECKED = 6  # per clip: TensorFlow takes seconds for a longer one


def convert(job: Job) -> Save:
    """Batch, frames, height and width are dynamic.

    The signature ``call`` of a stream takes ``image`` (B, T, H, W, 3) and the states, and returns
    ``logits`` and the next states; ``init_states`` returns the first ones for a shape.
    """
    modules = import_tensorflow("Exporting a SavedModel")
    from official.projects.movinet.tools import export_saved_model as exporter

    model = network(job.program)
    official = official_model(modules, model, ANY_CLIP)

    def save(path: Path, metadata: str) -> dict[str, Any]:
        exporter.export_saved_model(
            official, ANY_CLIP, str(path), model.settings.causal, bundle_input_init_states_fn=True
        )
        (path / METADATA).parent.mkdir()
        (path / METADATA).write_text(metadata, "utf-8")
        return {"tensorflow": modules.tf.__version__}

    return save


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """``threads`` are TensorFlow's own setting, which a process can choose only once.

    TensorFlow runs a SavedModel as a program, which may read and write files ("Using TensorFlow
    securely", in its repository): ExportError unless it is ``trusted``.
    """
    if not trusted:
        raise ExportError(
            f"{path} is a SavedModel, a program that runs with your privileges. If you trust its "
            "source, open it with trusted=True."
        )
    tf = import_tensorflow("Running SavedModels").tf
    _set_threads(tf, threads)
    saved = tf.saved_model.load(str(path))
    streams = "call" in saved.signatures
    signature = saved.signatures["call" if streams else "serving_default"]

    def call(inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert saved is not None  # a signature does not keep its variables alive
        outputs = signature(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: np.array(tensor) for name, tensor in outputs.items()}

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        (logits,) = call({IMAGE: image_of(inputs[0])}).values()
        return [torch.from_numpy(logits).reshape(len(inputs[0]), -1)]

    if not streams:
        return run
    names = list(signature.structured_input_signature[1])
    return stream_run(call, names, read_metadata(path), str(path))


def _set_threads(tf: Any, threads: int | None) -> None:
    settings = tf.config.threading
    if threads is None or settings.get_intra_op_parallelism_threads() == threads:
        return
    try:
        settings.set_intra_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise UsageError(
            f"TensorFlow already runs in this process, and cannot change to {threads} threads; "
            "open the SavedModel first, or leave threads out."
        ) from error


def read_metadata(path: Path) -> str:
    try:
        return read_text(path / METADATA, MOST_METADATA)
    except UsageError as error:
        raise ExportError(str(error)) from error


def short_clip_program(
    model: MoViNet, frames: int, size: tuple[int, int], batch: int = 1
) -> Program:
    """``clip_program`` with few frames, since the file takes any number of them."""
    return clip_program(model, min(frames, FRAMES_CHECKED), size, batch)
