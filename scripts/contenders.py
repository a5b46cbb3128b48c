"""What the benchmark compares: the forms of this package, and the alternatives.

A contender is a function of no arguments that does one unit of work, a frame with its states in
and out or a clip, and keeps its states from call to call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from movinet_convert import load_converted
from movinet_convert.checkpoint.mapping import links, map_variables
from movinet_convert.export import FORMATS, aot_inductor, export_model, load_exported
from movinet_convert.export.agreement import moving_clips
from movinet_convert.export.step import step_program
from movinet_convert.model import MoViNet, create_model
from movinet_convert.model.fuse import fuse
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.synthetic import synthetic_variables
from movinet_convert.weights.tf_variables import tf_variables

Work = Callable[[], object]
# As in docs/speed.md: no Python between the kernels, of which a frame has many and small ones.
FRAME_OPTIONS = {**aot_inductor.OPTIONS, "cpp_wrapper": True}


def synthetic_pair(name: str) -> tuple[MoViNet, Reference]:
    """Our network and the official one with the same weights."""
    model = create_model(name).eval()
    reference = Reference(model.variant, model.settings)
    reference.load(synthetic_variables(model.variant, reference.shapes))
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    pairs = links(model.variant, model.settings.conv_type, shapes)
    tensors = map_variables(reference.variables(), pairs, name)
    model.load_state_dict({key: torch.from_numpy(array) for key, array in tensors.items()})
    return model, reference


def trained_pair(path: str) -> tuple[MoViNet, Reference]:
    """A converted network, and the official one with its weights."""
    model = load_converted(path)
    reference = Reference(model.variant, model.settings, model.num_classes)
    reference.load(tf_variables(model))
    return model, reference


def example(model: MoViNet) -> torch.Tensor:
    """The unit of work: a frame for stream variants, the evaluation clip for base ones."""
    given = model.variant.input
    frames = 1 if model.settings.causal else given.frames
    return torch.rand(1, 3, frames, given.size, given.size)


def eager(model: MoViNet) -> Work:
    clip = example(model)
    if not model.settings.causal:
        return lambda: model(clip)
    return _streaming(model.stream, clip, model)


def compiled(model: MoViNet) -> Work:
    import torch._inductor.config as inductor

    inductor.freezing = True
    fused, clip = fuse(model), example(model)
    # A process measures several frame sizes, which cannot share one graph.
    how: dict[str, Any] = {"dynamic": False, "fullgraph": True}
    if clip.is_cuda or torch.cuda.is_available():
        how["mode"] = "reduce-overhead"
    elif model.settings.causal:
        how["options"] = FRAME_OPTIONS
    if not model.settings.causal:
        forward = torch.compile(fused, **how)
        return lambda: forward(clip)
    return _streaming(torch.compile(fused.stream, **how), clip, fused)


def _streaming(stream: Callable[..., Any], clip: torch.Tensor, model: MoViNet) -> Work:
    state = model.initial_state(1, *clip.shape[-2:])

    def work() -> object:
        nonlocal state
        logits, state = stream(clip, state)
        return logits

    return work


def exported(
    model: MoViNet, format: str, folder: Path, threads: int, *, int8: bool = False
) -> Work:
    kind = format + "-int8" * int8
    path = folder / f"{model.variant.name}-{kind}{FORMATS[format].suffix}"
    if not path.exists():
        how: dict[str, Any] = {}
        if int8:
            clips = moving_clips(
                step_program(model, 1, (model.variant.input.size,) * 2), causal=True
            )
            # Synthetic weights have nothing to lose.
            how = {"quantize": "int8", "calibration": clips, "allow_loss": 100.0}
        export_model(model, path, format, **how)
    opened, clip = load_exported(path, threads, trusted=True), example(model)
    if not model.settings.causal:
        return lambda: opened(clip)
    return opened.stream_video(itertools.repeat(clip)).__next__


def official(reference: Reference, model: MoViNet) -> Work:
    """The official model as a ``tf.function``, states as tensors in and out."""
    import tensorflow as tf

    clip = example(model).numpy().transpose(0, 2, 3, 4, 1)
    call = tf.function(reference.call, autograph=False)
    inputs = {"image": tf.constant(clip)}
    if not model.settings.causal:
        return lambda: call(inputs)[0].numpy()
    states = reference.model.backbone.init_states(clip.shape)

    def work() -> object:
        nonlocal states
        logits, states = call({**inputs, **states})
        return logits.numpy()

    return work


def tflite_file(reference: Reference, model: MoViNet, path: Path) -> Path:
    """The official model converted to TFLite, float32, with every state in and out."""
    import tensorflow as tf

    clip = example(model).numpy().transpose(0, 2, 3, 4, 1)
    specs = {"image": tf.TensorSpec(clip.shape, tf.float32, name="image")}
    if model.settings.causal:
        for name, state in reference.model.backbone.init_states(clip.shape).items():
            specs[name] = tf.TensorSpec(state.shape, state.dtype, name=name)

    def call(**inputs: Any) -> Any:
        logits, states = reference.call(inputs)
        return {"logits": logits, **states} if states else {"logits": logits}

    function = tf.function(call).get_concrete_function(**specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], reference.model)
    path.write_bytes(converter.convert())
    return path


def tflite(path: Path, threads: int, *, with_states: bool) -> Work:
    """XNNPACK runs it; ``with_states=False`` times the bare ``invoke``."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    # The signature knows which state is which; its runner copies each twice on its way round.
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    del runner  # the interpreter refuses to run beside it
    for name, detail in inputs.items():
        value = 0.5 if name == "image" else 0
        interpreter.set_tensor(detail["index"], np.full(detail["shape"], value, detail["dtype"]))
    interpreter.invoke()
    if not with_states:
        return interpreter.invoke
    image = np.full(inputs["image"]["shape"], 0.5, np.float32)
    states = [
        (inputs[name]["index"], interpreter.tensor(detail["index"]))
        for name, detail in outputs.items()
        if name in inputs
    ]

    def work() -> object:
        interpreter.set_tensor(inputs["image"]["index"], image)
        for index, after in states:
            interpreter.set_tensor(index, after())
        interpreter.invoke()
        return interpreter.get_tensor(outputs["logits"]["index"])

    return work
