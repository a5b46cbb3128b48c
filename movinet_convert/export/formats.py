"""The formats that a network can be exported to, and ``export_model``, which writes one."""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from movinet_convert.errors import UsageError
from movinet_convert.export import aot_inductor, executorch, onnx, openvino, torch_export
from movinet_convert.export.calibration import samples
from movinet_convert.export.flat_step import flat_program, openvino_program, xnnpack_program
from movinet_convert.export.metadata import metadata
from movinet_convert.export.report import ExportReport, compare, require_agreement
from movinet_convert.export.runtime import Format, Job, quiet
from movinet_convert.export.step import clip_program, plain_order_program, step_program
from movinet_convert.model.fuse import fuse
from movinet_convert.model.pieces import FusedStem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from movinet_convert.export.step import Program
    from movinet_convert.model import MoViNet

FORMATS: dict[str, Format] = {
    "torch-export": Format(
        ".pt2",
        torch_export.write,
        torch_export.open_file,
        step_program,
        dtypes=("float32", "float16", "bfloat16"),
    ),
    "aot-inductor": Format(".pt2", aot_inductor.write, aot_inductor.open_file, plain_order_program),
    "onnx": Format(".onnx", onnx.write, onnx.open_file, flat_program, quantize=("dynamic", "int8")),
    "openvino": Format(
        ".xml",
        openvino.write,
        openvino.open_file,
        openvino_program,
        dtypes=("float32", "float16"),
        beside=(".bin",),
    ),
    "executorch": Format(
        ".pte", executorch.write, executorch.open_file, xnnpack_program, base=False
    ),
}

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
) -> ExportReport:
    """Write ``model`` as a file of ``format`` and check it in its own runtime.

    A stream variant becomes a step of ``frames`` frames (1 unless given) with every state as an
    input and an output; a base variant takes a clip, of any number of frames where the format
    allows it. ``size`` is height and width, the variant's own unless given. ``calibration``
    holds clips (1, 3, T, H, W) for ``quantize="int8"``, as ``calibration_clips`` reads them.
    ``labels`` are the classes' names, those of Kinetics-600 unless given where there are 600.

    The file replaces what stands at ``path`` (in it, if that is a folder) only once it has agreed
    with the eager model; where numbers are kept in less than float32, the loss is in the report
    instead. Raises UsageError for a model in training mode
    and for what the format cannot do, ExportError for what it cannot do on
    this machine, ParityError for a file that computes something else.
    """
    row = _row(model, format, dtype, quantize)
    if model.training:
        raise UsageError("The model is in training mode; call model.eval() before exporting it.")
    fused = model if isinstance(model.stem, FusedStem) else fuse(model)
    height, width = size or (model.variant.input.size,) * 2
    build = row.program if model.settings.causal else clip_program
    steps = frames or (1 if model.settings.causal else model.variant.input.frames)
    dtype = dtype or "float32"
    # OpenVINO narrows the weights alone, as it writes them.
    narrow = dtype != "float32" and row.write is not openvino.write
    exported = copy.deepcopy(fused).to(DTYPES[dtype]) if narrow else fused
    program = build(exported, steps, (height, width))
    seen = _samples(program, calibration) if quantize == "int8" else ()
    job = Job(program, metadata(model, program, labels), dtype, quantize, seen)
    target = Path(path)
    if target.is_dir():
        target = target / model.variant.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        written = Path(folder) / target.with_suffix(row.suffix).name
        with quiet():
            details = row.write(job, written)
        agreement = compare(row.open(written), program, model)
        exact = dtype == "float32" and quantize is None
        require_agreement(agreement, f"{model.variant.name} ({format})", exact=exact)
        files = _move(written, target, row)
    return ExportReport(
        files[0],
        format,
        files,
        sum(file.stat().st_size for file in files),
        dtype,
        quantize,
        agreement.frames,
        agreement.deviation,
        agreement.top1,
        details,
    )


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


def _samples(program: Program, clips: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], ...]:
    size = program.example[0].shape[-2:]
    if not clips or any(clip.shape[-2:] != size for clip in clips):
        raise UsageError(
            f"int8 needs calibration clips of the size that is exported, {size[0]}x{size[1]}; "
            "give some."
        )
    found = samples(program, clips)
    if not found:
        frames = program.example[0].shape[2]
        raise UsageError(f"No calibration clip is as long as one call, {frames} frames.")
    return found


def _move(written: Path, target: Path, row: Format) -> tuple[Path, ...]:
    moved = []
    for suffix in (row.suffix, *row.beside):
        place = target.with_suffix(suffix)
        shutil.move(written.with_suffix(suffix), place)
        moved.append(place)
    return tuple(moved)
