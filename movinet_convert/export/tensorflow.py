"""Back to TensorFlow: a checkpoint, written without TensorFlow; SavedModel and TFLite with [tf].

Source of the official exporter: ``official/projects/movinet/tools/export_saved_model.py``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from movinet_convert.checkpoint.model_garden import write_checkpoint
from movinet_convert.errors import UsageError
from movinet_convert.export.outputs import (
    explained,
    file_names,
    folder_name,
    staged,
    staged_folder,
)
from movinet_convert.model import MoViNet
from movinet_convert.parity.official import TensorFlow, build_official, import_tensorflow
from movinet_convert.weights.tf_variables import tf_variables

Shape = tuple[int | None, ...]
CHANNELS = 3


def export_checkpoint(model: MoViNet, folder: Path) -> Path:
    """Write ``checkpoint``, ``ckpt-1.index`` and its data into ``folder``; returns the prefix.

    ``tf.train.Checkpoint(model=official_model).restore(prefix)`` finds every variable, and weights
    converted from TensorFlow are restored bit for bit. Raises UsageError for a folder with other
    files or a fused network, WeightsError for weights that are not finite, ExportError if they
    cannot be written.
    """
    variables = tf_variables(model)
    with explained(folder, "tf-checkpoint", OSError):
        return write_checkpoint(folder_name(folder, "tf-checkpoint"), model.variant.arch, variables)


def export_saved_model(
    model: MoViNet,
    folder: Path,
    *,
    batch: int | None = None,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
) -> Path:
    """Write a SavedModel into ``folder``, as Google's exporter does; returns the folder.

    Sizes that are None are dynamic, and a stream model then has a second signature ``init_states``.
    The signature ``call`` takes ``image`` (B, T, H, W, 3) and the states, and returns ``logits``
    and the next states. Raises UsageError if ``folder`` is not empty, MissingExtraError without
    TensorFlow.
    """
    folder = folder_name(folder, "saved-model")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder; name a new one.")
    modules = import_tensorflow("Exporting a SavedModel")
    from official.projects.movinet.tools import export_saved_model as exporter

    shape = (batch, frames, height, width, CHANNELS)
    official = _official_model(modules, model, shape)
    with staged_folder(folder, "saved-model") as written:
        exporter.export_saved_model(
            official,
            shape,
            str(written),
            causal=model.settings.causal,
            bundle_input_init_states_fn=None in shape,
        )
    return folder


def export_tflite(model: MoViNet, path: Path, *, height: int, width: int) -> Path:
    """Write a float32 TFLite file that runs a stream frame by frame; returns the path.

    Its signature takes ``image`` (1, 1, height, width, 3), RGB in [0, 1], and the states, zeros
    for a video's first frame; it returns ``logits`` and the next states under the same names.
    Raises UsageError for a base model, whose depthwise 3D convolutions TFLite does not have.
    """
    if not model.settings.causal:
        raise UsageError(
            f"{model.variant.name} has depthwise 3D convolutions, which TFLite does not; export "
            f"{model.variant.arch}-stream, or --format saved-model."
        )
    (path,) = file_names(path, (".tflite",), model.variant.name, "tflite")
    modules = import_tensorflow("Exporting to TFLite")
    tf, shape = modules.tf, (1, 1, height, width, CHANNELS)
    official = _official_model(modules, model, shape)

    def step(inputs: Mapping[str, Any]) -> dict[str, Any]:
        logits, states = official(inputs)
        return {**states, "logits": logits}

    specs = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in official.initial_state_specs(shape).items()
    }
    specs["image"] = tf.TensorSpec(shape, official.dtype, name="image")
    # The converter needs one signature. The official exporter saves the Keras model, which traces
    # every layer several times: the same file in ten times the time.
    module = tf.Module()
    module.weights = official.variables
    with tempfile.TemporaryDirectory(prefix="movinet-tflite-") as saved:
        signature = tf.function(step, jit_compile=True).get_concrete_function(specs)
        tf.saved_model.save(module, saved, signatures=signature)
        content: bytes = tf.lite.TFLiteConverter.from_saved_model(saved).convert()
    with staged([path], "tflite") as written:
        written.write_bytes(content)
    return path


def _official_model(modules: TensorFlow, model: MoViNet, shape: Shape) -> Any:
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
