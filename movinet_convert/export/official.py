"""The official TensorFlow model of a network, and how its signature is called.

A signature takes ``image`` (1, T, H, W, 3) and the states by their names in the Model Garden.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from movinet_convert.export.metadata import parse
from movinet_convert.export.runtime import Run
from movinet_convert.export.tensorflow import export_checkpoint
from movinet_convert.model import MoViNet, StreamState
from movinet_convert.parity.official import TensorFlow, build_official
from movinet_convert.parity.states import official_state, stream_state

Array = NDArray[Any]
Shape = tuple[int | None, ...]  # (B, T, H, W, C)
Signature = Callable[[Mapping[str, Array]], dict[str, Array]]
IMAGE = "image"


def official_model(modules: TensorFlow, model: MoViNet, shape: Shape) -> Any:
    """The official model with the weights of ``model``, built for clips of ``shape``."""
    official = build_official(
        modules,
        model.variant.arch,
        model.settings,
        model.num_classes,
        clip_shape=shape,
        simple_swish=True,
    )
    official.build([1 if size is None else size for size in shape])
    with tempfile.TemporaryDirectory(prefix="movinet-export-") as scratch:
        prefix = export_checkpoint(model, Path(scratch) / "checkpoint")
        # The official exporter could restore it, but first creates an optimizer, which Keras since
        # 2.11 then expects in the checkpoint, even in Google's own.
        status = modules.tf.train.Checkpoint(model=official).restore(str(prefix))
        status.assert_existing_objects_matched()
    return official


def image_of(clip: Tensor) -> Array:
    """(1, 3, T, H, W) as (1, T, H, W, 3)."""
    return np.ascontiguousarray(clip.movedim(1, -1).numpy())


def signature_shapes(
    inputs: Iterable[str], metadata: str, where: str
) -> dict[str, tuple[int, ...]]:
    """The shapes that the inputs of a stream's signature must have.

    Raises StateError for a state that the official models do not have.
    """
    image, *states = parse(metadata, where).inputs
    zeros = StreamState.of_tensors({state.name: torch.zeros(state.shape) for state in states})
    shapes = {name: official_state(name, zeros).shape for name in inputs if name != IMAGE}
    return {**shapes, IMAGE: (image.shape[0], *image.shape[2:], image.shape[1])}


def stream_run(call: Signature, inputs: Sequence[str], metadata: str, where: str) -> Run:
    """Run a stream's signature with the tensors of ``StreamState``, in order.

    ``inputs`` are the signature's. Raises ExportError if the metadata are not of a stream.
    """
    names = [given.name for given in parse(metadata, where).inputs[1:]]
    given = [name for name in inputs if name != IMAGE]

    def run(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        state = StreamState.of_tensors(dict(zip(names, tensors[1:], strict=True)))
        states = {name: official_state(name, state) for name in given}
        outputs = call({IMAGE: image_of(tensors[0]), **states})
        logits = torch.from_numpy(outputs.pop("logits")).reshape(1, -1)
        after = dict(stream_state(outputs, 1).tensors())
        return [logits, *(after[name] for name in names)]

    return run
