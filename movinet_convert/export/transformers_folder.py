"""``transformers``: a folder with a model and a video processor of that library."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import Tensor

from movinet_convert.errors import ExportError, ParityError, UsageError
from movinet_convert.export.metadata import metadata
from movinet_convert.export.runtime import Job, Run, Save
from movinet_convert.export.step import clip_program, network, step_program
from movinet_convert.files.reading import read_text
from movinet_convert.model import MoViNet
from movinet_convert.model.create import empty_model
from movinet_convert.model.settings import get_variant
from movinet_convert.model.state import StateSpec, StreamState
from movinet_convert.model.transforms import CHANNELS, ClipTransform
from movinet_convert.variants import Variant
from movinet_convert.weights.file import read_header, read_tensors
from movinet_convert.weights.header import first_error
from movinet_convert.weights.hub_files import FILE_NAME
from movinet_convert.weights.transformers_files import PROCESSOR_NAME

MOST_JSON = 1 << 20  # bytes


def convert(job: Job) -> Save:
    """A model takes any number of videos, frames and any size: those of the program are defaults.

    Its video processor makes clips of the program's size, of its frames for a base variant.
    """
    from movinet_convert.export.transformers import (
        MoViNetForVideoClassification,
        MoViNetVideoProcessor,
    )

    program, model = job.program, network(job.program)
    causal, size = model.settings.causal, program.size
    if causal and program.frames != 1:
        raise UsageError(
            "A stream variant takes any number of frames at a time in transformers; leave frames "
            "(--frames) out."
        )

    def save(path: Path, metadata: str) -> dict[str, Any]:
        import transformers

        written = MoViNetForVideoClassification.of(model, json.loads(metadata)["labels"])
        if not causal:
            written.config.num_frames = program.frames
        written.save_pretrained(path)
        MoViNetVideoProcessor.of(model.variant, size).save_pretrained(path)
        _check_logits(path, model)
        _check_processor(path, model.variant, size)
        return {"transformers": transformers.__version__}

    return save


@torch.no_grad()
def _check_logits(path: Path, model: MoViNet) -> None:
    """Raise ParityError unless the model in a folder computes what the network does, bit for bit.

    A copy is compared, whose tensors are aligned as those of the reopened model are.
    """
    reopened, original = _opened(path), copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand(1, CHANNELS, 2, *(model.variant.input.size,) * 2, generator=generator)
    found = reopened(clip.transpose(1, 2)).logits
    if found.dtype != model.dtype or not torch.equal(found, original(clip)):
        raise ParityError(
            f"The exported {model.variant.name} (transformers) has other logits than the network; "
            "nothing was written. Try another version of transformers."
        )


def _check_processor(path: Path, variant: Variant, size: tuple[int, int]) -> None:
    """Raise ParityError unless the video processor in a folder does what ``ClipTransform`` does."""
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(
        0, 256, (2, CHANNELS, size[0] + 33, size[1] + 57), generator=generator, dtype=torch.uint8
    )
    found = AutoVideoProcessor.from_pretrained(path)(frames)["pixel_values_videos"][0]
    if not torch.equal(found.transpose(0, 1), ClipTransform.of(variant, size)(frames)):
        raise ParityError(
            f"The video processor of {variant.name} prepares frames otherwise than its transforms; "
            "nothing was written. Try another version of transformers."
        )


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """``threads`` is PyTorch's own setting. The module of classes in the folder is not run."""
    if threads is not None:
        torch.set_num_threads(threads)
    model = _opened(path)
    header = read_header(path / FILE_NAME)
    names = StateSpec.of(get_variant(header.variant), header.settings).shapes(1, 1, 1)

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        frames, *states = inputs
        past = StreamState.of_tensors(dict(zip(names, states, strict=True))) if states else None
        output = model(frames.transpose(1, 2), past=past)
        after = () if output.past is None else output.past.tensors()
        return [output.logits, *(tensor for _, tensor in after)]

    return run


def _opened(path: Path) -> Any:
    """The model in a folder, opened by transformers without showing its progress."""
    from transformers import AutoModelForVideoClassification
    from transformers.utils import logging

    import movinet_convert.export.transformers  # noqa: F401  # registers the classes

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return AutoModelForVideoClassification.from_pretrained(path, local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()


class Crop(pydantic.BaseModel):
    """``crop_size`` of a video processor."""

    height: int = pydantic.Field(gt=0)
    width: int = pydantic.Field(gt=0)


class Processor(pydantic.BaseModel):
    """What is needed of the file of a video processor, which anyone may have written."""

    crop_size: Crop


def read_metadata(path: Path) -> str:
    """Those of a program for one video of the processor's size, a frame or a clip at a time."""
    header, weights = read_header(path / FILE_NAME), read_tensors(path / FILE_NAME)
    try:
        crop = Processor.model_validate_json(read_text(path / PROCESSOR_NAME, MOST_JSON)).crop_size
    except ValueError as error:
        raise ExportError(
            f"{path / PROCESSOR_NAME} is not of a video processor ({first_error(error)}); export "
            "the network again."
        ) from None
    variant = get_variant(header.variant)
    model = empty_model(variant, header.settings, header.num_classes)
    model.to(next(iter(weights.values())).dtype)
    size = (crop.height, crop.width)
    with torch.device("meta"):
        program = (
            step_program(model, 1, size)
            if header.settings.causal
            else clip_program(model, variant.input.frames, size)
        )
    return json.dumps(metadata(model, program, header.labels))
