"""``export_model``: a network as a file for another runtime, checked there."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from movinet_convert.errors import UsageError
from movinet_convert.export.agreement import (
    Agreement,
    measure,
    moving_clips,
    noise_clips,
    require,
)
from movinet_convert.export.exported import load_exported
from movinet_convert.export.formats import FORMATS
from movinet_convert.export.metadata import metadata
from movinet_convert.export.outputs import (
    contents,
    empty_folder,
    explained,
    file_names,
    staged,
    staged_folder,
)
from movinet_convert.export.quantization.calibration import split
from movinet_convert.export.quantization.plan import plan
from movinet_convert.export.runtime import Format, Job, quiet
from movinet_convert.export.step import Program
from movinet_convert.files.writing import check_output
from movinet_convert.model import MoViNet
from movinet_convert.model.fuse import fuse
from movinet_convert.weights.labels import Labels

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ExportReport:
    """A written export: its files, or folder, and the agreement with the eager model's logits."""

    path: Path
    format: str
    files: tuple[Path, ...]
    bytes: int
    dtype: str
    quantize: str | None
    agreement: Agreement
    details: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "format": self.format,
            "files": [str(file) for file in self.files],
            "bytes": self.bytes,
            "dtype": self.dtype,
            "quantize": self.quantize,
            "frames_checked": self.agreement.frames,
            "clips_checked": self.agreement.clips,
            "deviation": self.agreement.deviation,
            "mean_error": self.agreement.mean_error,
            "correlation": self.agreement.correlation,
            "agreement": self.agreement.top1,
            "details": self.details,
        }


def export_model(
    model: MoViNet,
    path: str | Path,
    format: str,
    *,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    dtype: str | None = None,
    quantize: str | None = None,
    calibration: Sequence[Tensor] = (),
    labels: Labels | None = None,
    allow_loss: float | None = None,
    report: Path | None = None,
) -> ExportReport:
    """Write ``model`` as a file of ``format`` and check it in its own runtime.

    A stream variant becomes a step of ``frames`` frames (default 1) with every state as an input
    and an output; a base variant takes a clip, of any number of frames where the format allows it.
    ``size`` is height and width, by default the variant's own, ``batch`` the number of videos of a
    call. ``calibration``: clips (1, 3, T, H, W) for ``quantize="int8"``, as ``calibration_clips``
    reads them; of four or more, every fourth is held out for the check. ``labels`` are the class
    names, or a file with one per line; by default those of the model, or of Kinetics-600 if there
    are 600. ``report``: a CSV file for the error of each layer in int8.

    The suffix of the format is appended to ``path`` if it is missing. The file at ``path`` (in it,
    if that is a folder) is replaced only once the new one agrees with the eager model: up to
    rounding in float32; in reduced precision, by ``FLOORS`` or, with ``allow_loss``, with a mean
    absolute error of at most ``allow_loss`` std of the reference logits, and the metadata then
    record the agreement.

    Raises UsageError for a model in training mode, options that the format lacks and invalid names,
    ExportError for failures on this machine or agreement below the floor, ParityError for a
    full-precision file that computes something else.
    """
    row = _row(model, format, dtype, quantize, batch)
    kind = _reduced_precision(dtype, quantize, allow_loss)
    _check_report(report, quantize)
    files, staging = _output(row, Path(path), model.variant.name, format)
    program = _program(model, row, frames, size, batch, dtype or "float32")
    described = metadata(model, program, labels)
    job, clips = Job(program, dtype or "float32", quantize), _clips(program, model, kind)
    if quantize == "int8":
        calibrating, clips = split(program, calibration)
        job = _planned(job, row, calibrating, report)
    with staging as written, quiet():
        with explained(files[0].parent, format, OSError, RuntimeError):
            save = row.runtime.convert(job)
            details = save(written, json.dumps(described, sort_keys=True))
        # As anyone opens it, who does not trust it more than its format needs.
        agreement = measure(load_exported(written, trusted=row.compiled), model, clips)
        require(agreement, f"{model.variant.name} ({format})", kind, allow_loss)
        if kind is not None:
            described["measured"] = agreement.as_json(kind, allow_loss)
            with explained(files[0].parent, format, OSError, RuntimeError):
                save(written, json.dumps(described, sort_keys=True))
    bytes = sum(file.stat().st_size for path in files for file in contents(path))
    return ExportReport(
        files[0], format, tuple(files), bytes, job.dtype, quantize, agreement, details
    )


def _row(
    model: MoViNet, format: str, dtype: str | None, quantize: str | None, batch: int
) -> Format:
    row = FORMATS.get(format)
    if row is None:
        raise UsageError(f"There is no export format {format!r}; choose {', '.join(FORMATS)}.")
    if not model.settings.causal and not row.base:
        raise UsageError(
            f"{format} has no 3D convolutions, which {model.variant.name} needs; "
            f"export {model.variant.arch}-stream, or choose {_formats(lambda row: row.base)}."
        )
    if dtype is not None and dtype not in row.dtypes:
        raise UsageError(f"{format} keeps weights as {', '.join(row.dtypes)}; not as {dtype}.")
    if quantize is not None and quantize not in row.quantize:
        able = _formats(lambda row: quantize in row.quantize)
        raise UsageError(f"{format} cannot quantize {quantize!r}; formats that can: {able or '-'}.")
    if quantize == "int8" and not row.int8_base and not model.settings.causal:
        able = _formats(lambda row: "int8" in row.quantize and row.int8_base)
        raise UsageError(f"{format} has no int8 for base variants; formats that have: {able}.")
    if model.training:
        raise UsageError("The model is in training mode; call model.eval() before exporting it.")
    _check_batch(batch, row, format)
    return row


def _output(
    row: Format, path: Path, name: str, format: str
) -> tuple[list[Path], AbstractContextManager[Path]]:
    """The files, or the folder, to write, and a temporary name for the first."""
    if not row.suffix:
        folder = empty_folder(path, format)
        return [folder], staged_folder(folder, format)
    files = file_names(path, (row.suffix, *row.companions), name, format)
    return files, staged(files, format)


def _reduced_precision(
    dtype: str | None, quantize: str | None, allow_loss: float | None
) -> str | None:
    """The key of ``FLOORS``; None for float32."""
    kind = quantize or (dtype if dtype != "float32" else None)
    if allow_loss is not None and kind is None:
        raise UsageError("allow_loss (--allow-loss) is for quantized and half-precision files.")
    if allow_loss is not None and not 0 < allow_loss < math.inf:
        raise UsageError(f"allow_loss is a positive number, not {allow_loss:g}.")
    return kind


def _formats(able: Callable[[Format], bool]) -> str:
    """The names of the formats that can do something, for a message."""
    return ", ".join(name for name, row in FORMATS.items() if able(row))


def _check_batch(batch: int, row: Format, format: str) -> None:
    if batch < 1:
        raise UsageError(f"batch is the number of videos, at least 1; got {batch}.")
    if batch > 1 and not row.batches:
        able = _formats(lambda row: row.batches)
        raise UsageError(f"{format} files take one video at a time; formats for more: {able}.")


def _check_report(report: Path | None, quantize: str | None) -> None:
    if report is None:
        return
    if quantize != "int8":
        raise UsageError("report (--report FILE) is for int8; leave it out.")
    check_output(report, (".csv",), ())


def _program(
    model: MoViNet,
    row: Format,
    frames: int | None,
    size: tuple[int, int] | None,
    batch: int,
    dtype: str,
) -> Program:
    causal, own = model.settings.causal, model.variant.input
    exported = fuse(model) if row.fuses and not model.fused else model
    if dtype != "float32" and row.casts_model:
        exported = copy.deepcopy(exported).to(DTYPES[dtype])
    build = row.program if causal else row.clip
    size = size or (own.size,) * 2
    return build(exported, frames or (1 if causal else own.frames), size, batch)


def _planned(job: Job, row: Format, calibrating: Sequence[Tensor], report: Path | None) -> Job:
    """An int8 job with the plan for it, whose table is written to ``report``."""
    planned = plan(
        job.program,
        calibrating,
        depthwise=row.int8_depthwise,
        pointwise_only=row.pointwise_only,
    )
    if report is not None:
        planned.write_csv(report)
    return replace(job, program=planned.program, plan=planned)


def _clips(program: Program, model: MoViNet, kind: str | None) -> list[Tensor]:
    """Clips for the check, of a file that was not calibrated."""
    return (moving_clips if kind else noise_clips)(program, model.settings.causal)
