"""The formats that a network can be exported to for other runtimes."""

from __future__ import annotations

from movinet_convert.export import (
    aot_inductor,
    executorch,
    layouts,
    litert,
    onnx,
    openvino,
    saved_model,
    tflite,
    torch_export,
    transformers_folder,
)
from movinet_convert.export.flat_clip import flat_clip_program
from movinet_convert.export.flat_step import (
    flat_program,
    litert_program,
    openvino_program,
    xnnpack_program,
)
from movinet_convert.export.runtime import Format
from movinet_convert.export.step import channels_last_program, step_program
from movinet_convert.weights.transformers_files import PROCESSOR_NAME

FORMATS: dict[str, Format] = {
    "torch-export": Format(
        torch_export,
        ".pt2",
        step_program,
        layouts.PLAIN,
        dtypes=("float32", "float16", "bfloat16"),
    ),
    "aot-inductor": Format(
        aot_inductor, ".pt2", channels_last_program, layouts.CHANNELS_LAST, compiled=True
    ),
    "onnx": Format(
        onnx,
        ".onnx",
        flat_program,
        layouts.TALL,
        quantize=("weights", "dynamic", "int8"),
        int8_base=False,
        pointwise_only=True,
    ),
    "openvino": Format(
        openvino,
        ".xml",
        openvino_program,
        layouts.TALL_CHANNELS_LAST,
        companions=(".bin",),
        dtypes=("float32", "float16"),
        casts_model=False,
        quantize=("weights", "int8"),
        int8_depthwise=False,
        reuses_memory=True,
    ),
    "executorch": Format(
        executorch,
        ".pte",
        xnnpack_program,
        layouts.TALL_STRIDED,
        clip=flat_clip_program,
        quantize=("int8", "weights"),
        pointwise_only=True,
        fixed_frames=True,
        reuses_memory=True,
    ),
    "litert": Format(
        litert,
        ".tflite",
        litert_program,
        layouts.TALL_CHANNELS_LAST,
        clip=flat_clip_program,
        fixed_frames=True,
        dtypes=("float32", "float16"),
        casts_model=False,
        quantize=("weights", "int8"),
    ),
    "transformers": Format(
        transformers_folder,
        "",
        step_program,
        layouts.AS_THEY_ARE,
        marker=PROCESSOR_NAME,
        batches=False,
        fuses=False,
        dtypes=("float32", "float16", "bfloat16"),
        any_size=True,
    ),
    "tflite": Format(
        tflite,
        ".tflite",
        step_program,
        layouts.AS_THEY_ARE,
        base=False,
        batches=False,
        fuses=False,
    ),
    "saved-model": Format(
        saved_model,
        "",
        step_program,
        layouts.AS_THEY_ARE,
        clip=saved_model.short_clip_program,
        marker="saved_model.pb",
        batches=False,
        fuses=False,
        compiled=True,
        any_size=True,
    ),
}
