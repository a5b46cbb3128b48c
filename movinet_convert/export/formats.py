"""The formats that a network can be exported to, and ``export_model``, which writes one."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from movinet_convert.errors import UsageError
from movinet_convert.export import aot_inductor, executorch, onnx, openvino, torch_export
from movinet_convert.export.agreement import (
    compare,
    moving_clips,
    noise_clips,
    require_exact,
    require_floor,
)
from movinet_convert.export.calibration import samples
from movinet_convert.export.flat_step import flat_program, openvino_program, xnnpack_program
from movinet_convert.export.metadata import metadata, with_measured
from movinet_convert.export.outputs import explained, file_names, staged
from movinet_convert.export.report import ExportReport
from movinet_convert.export.runtime import Format, Job, quiet
from movinet_convert.export.step import Program, clip_program, plain_order_program, step_program
from movinet_convert.model import MoViNet
from movinet_convert.model.fuse import fuse

FORMATS: dict[str, Format] = {
    "torch-export": Format(
        ".pt2",
        torch_export.write,
        torch_export.open_file,
        step_program,
        dtypes=("float32", "float16", "bfloat16"),
        annotate=torch_export.annotate,
    ),
    "aot-inductor": Format(".pt2", aot_inductor.write, aot_inductor.open_file, plain_order_program),
    "onnx": Format(
        ".onnx",
        onnx.write,
        onnx.open_file,
        flat_program,
        quantize=("dynamic", "int8"),
        annotate=onnx.annotate,
    ),
    "openvino": Format(
        ".xml",
        openvino.write,
        openvino.open_file,
        openvino_program,
        dtypes=("float32", "float16"),
        beside=(".bin",),
        annotate=openvino.annotate,
    ),
    "executorch": Format(
        ".pte", executorch.write, executorch.open_file, xnnpack_program, base=False
    ),
}

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HELD_OUT = 4  # of so many calibration clips one is kept to check with
MOST_HELD_OUT, LONGEST_HELD_OUT = 16, 50  # clips, and frames of each


def export_model(
    model: MoViNet,
    path: str | Path,
    format: str,
    *,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    calibration: Sequence[Tensor] = (),
    labels: Sequence[str] | None = None,
    allow_loss: float | None = None,
) -> ExportReport:
    """Write ``model`` as a file of ``format`` and check it in its own runtime.

    A stream variant becomes a step of ``frames`` frames (1 unless given) with every state as an
    input and an output; a base variant takes a clip, of any number of frames where the format
    allows it. ``size`` is height and width, the variant's own unless given. ``calibration``
    holds clips (1, 3, T, H, W) for ``quantize="int8"``, as ``calibration_clips`` reads them; of
    four or more, every fourth is kept to check with. ``labels`` are the classes' names, those of
    Kinetics-600 unless given where there are 600.

    The suffix of the format is appended to ``path`` unless it is there. The file replaces what
    stands at ``path`` (in it, if that is a folder) only once it has agreed with the eager model:
    exactly in float32; where numbers are kept in less, at least as well as ``FLOORS`` says for
    their kind or, with ``allow_loss``, with a mean absolute error of at most ``allow_loss``
    standard deviations of the reference logits. The file's metadata then hold what was measured.

    Raises UsageError for a model in training mode, for what the format cannot do and for names that
    it cannot have, ExportError for what cannot be done on this machine or falls below the floor,
    ParityError for a full-precision file that computes something else.
    """
    row = _row(model, format, dtype, quantize)
    if model.training:
        raise UsageError("The model is in training mode; call model.eval() before exporting it.")
    kind = _kind(dtype, quantize, allow_loss)
    files = file_names(Path(path), (row.suffix, *row.beside), model.variant.name, format)
    program = _program(model, row, frames, size, dtype or "float32")
    seen, held_out = _samples(program, calibration) if quantize == "int8" else ((), [])
    told = metadata(model, program, labels)
    job = Job(program, told, dtype or "float32", quantize, seen)
    clips = held_out or _clips(program, model.settings.causal, exact=kind is None)
    what = f"{model.variant.name} ({format})"
    with staged(files, format) as written:
        with quiet(), explained(files[0].parent, format, OSError, RuntimeError):
            details = row.write(job, written)
        agreement = compare(row.open(written, trusted=True), program, model, clips)
        if kind is None:
            require_exact(agreement, what)
        else:
            require_floor(agreement, what, kind, allow_loss)
            assert row.annotate is not None, "a format of smaller numbers says what they lost"
            with explained(files[0].parent, format, OSError, RuntimeError):
                row.annotate(written, with_measured(told, agreement, kind, allow_loss))
    return ExportReport(
        files[0],
        format,
        tuple(files),
        sum(file.stat().st_size for file in files),
        job.dtype,
        quantize,
        agreement.frames,
        agreement.clips,
        agreement.deviation,
        agreement.mean_error,
        agreement.correlation,
        agreement.top1,
        details,
    )


def _kind(dtype: str | None, quantize: str | None, allow_loss: float | None) -> str | None:
    """What numbers lose precision by, a key of ``FLOORS``; None for float32."""
    kind = quantize or (dtype if dtype != "float32" else None)
    if allow_loss is not None and kind is None:
        raise UsageError("allow_loss (--allow-loss) is for quantized and half-precision files.")
    if allow_loss is not None and not 0 < allow_loss < math.inf:
        raise UsageError(f"allow_loss is a positive number, not {allow_loss:g}.")
    return kind


def _program(
    model: MoViNet, row: Format, frames: int | None, size: tuple[int, int] | None, dtype: str
) -> Program:
    fused = model if model.fused else fuse(model)
    build = row.program if model.settings.causal else clip_program
    steps = frames or (1 if model.settings.causal else model.variant.input.frames)
    # OpenVINO narrows the weights alone, as it writes them.
    narrow = dtype != "float32" and row.write is not openvino.write
    exported = copy.deepcopy(fused).to(DTYPES[dtype]) if narrow else fused
    return build(exported, steps, size or (model.variant.input.size,) * 2)


def _clips(program: Program, streams: bool, *, exact: bool) -> list[Tensor]:
    return noise_clips(program, streams) if exact else moving_clips(program, streams)


def _row(model: MoViNet, format: str, dtype: str | None, quantize: str | None) -> Format:
    row = FORMATS.get(format)
    if row is None:
        raise UsageError(f"There is no export format {format!r}; choose {', '.join(FORMATS)}.")
    if not model.settings.causal and not row.base:
        able = ", ".join(name for name, other in FORMATS.items() if other.base)
        raise UsageError(
            f"{format} has no 3D convolutions, which {model.variant.name} is made of; "
            f"export {model.variant.arch}-stream, or choose {able}."
        )
    if dtype is not None and dtype not in row.dtypes:
        raise UsageError(f"{format} keeps weights as {', '.join(row.dtypes)}; not as {dtype}.")
    if quantize is not None and quantize not in row.quantize:
        able = ", ".join(name for name, other in FORMATS.items() if quantize in other.quantize)
        raise UsageError(f"{format} cannot quantize {quantize!r}; formats that can: {able or '-'}.")
    return row


def _samples(
    program: Program, clips: Sequence[Tensor]
) -> tuple[tuple[tuple[Tensor, ...], ...], list[Tensor]]:
    """Inputs to calibrate with, and clips to check with, others where there are enough."""
    size = program.example[0].shape[-2:]
    if not clips or any(clip.shape[-2:] != size for clip in clips):
        raise UsageError(
            f"int8 needs calibration clips of the size that is exported, {size[0]}x{size[1]}; "
            "give some."
        )
    frames = 1 if program.dynamic_frames else program.example[0].shape[2]
    long_enough = [clip for clip in clips if clip.shape[2] >= frames]
    if not long_enough:
        raise UsageError(f"No calibration clip is as long as one call, {frames} frames.")
    held_out = long_enough[::HELD_OUT]
    if len(long_enough) >= HELD_OUT:
        long_enough = [clip for i, clip in enumerate(long_enough) if i % HELD_OUT]
    longest = max(frames, LONGEST_HELD_OUT)
    return samples(program, long_enough), [
        clip[:, :, :longest] for clip in held_out[:MOST_HELD_OUT]
    ]
