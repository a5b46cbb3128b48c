"""SavedModel and TFLite, made by the official exporter from a checkpoint that is written here.

Source of the exporter: ``official/projects/movinet/tools/export_saved_model.py``. Needs the extra
[tf].
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from movinet_convert.errors import UsageError
from movinet_convert.export.outputs import file_names, folder_name, staged, staged_folder
from movinet_convert.export.tf_checkpoint import export_checkpoint
from movinet_convert.model import MoViNet
from movinet_convert.parity.official import build_official, import_tensorflow

CHANNELS = 3


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

    Sizes left None stay open, and a stream model then also has a signature ``init_states``. Its
    signature ``call`` takes ``image`` (B, T, H, W, 3) and the states, and returns ``logits`` and
    the states to go on with. Raises UsageError where ``folder`` holds anything,
    MissingExtraError without TensorFlow.
    """
    folder = folder_name(folder, "saved-model")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder; name a new one.")
    modules = import_tensorflow("Exporting a SavedModel")
    from official.projects.movinet.tools import export_saved_model as exporter

    shape = (batch, frames, height, width, CHANNELS)
    official = build_official(
        modules,
        model.variant.arch,
        model.settings,
        model.num_classes,
        clip_shape=shape,
        simple_swish=True,
    )
    official.build([1 if n is None else n for n in shape])
    with tempfile.TemporaryDirectory(prefix="movinet-export-") as scratch:
        prefix = export_checkpoint(model, Path(scratch) / "checkpoint")
        # The exporter could restore it, but makes an optimizer first, which Keras since 2.11 then
        # misses in the checkpoint, be it Google's own.
        status = modules.tf.train.Checkpoint(model=official).restore(str(prefix))
        status.assert_existing_objects_matched()
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
    """Write a float32 TFLite file that takes a stream frame by frame; returns the path.

    Its signature takes ``image`` (1, 1, height, width, 3), RGB in [0, 1], and the states, zeros
    for a video's first frame; it returns ``logits`` and the states for the next frame, under the
    names they are taken by. Raises UsageError for a base model, whose depthwise 3D convolutions
    TFLite does not have.
    """
    if not model.settings.causal:
        raise UsageError(
            f"{model.variant.name} has depthwise 3D convolutions, which TFLite does not; export "
            f"{model.variant.arch}-stream, or --format saved-model."
        )
    (path,) = file_names(path, (".tflite",), model.variant.name, "tflite")
    tf = import_tensorflow("Exporting to TFLite").tf
    with tempfile.TemporaryDirectory(prefix="movinet-tflite-") as scratch:
        saved = export_saved_model(
            model, Path(scratch) / "saved", batch=1, frames=1, height=height, width=width
        )
        content: bytes = tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert()
    with staged([path], "tflite") as written:
        written.write_bytes(content)
    return path
