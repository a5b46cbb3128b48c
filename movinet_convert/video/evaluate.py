"""Accuracy over videos whose answers are known, in one process or many, in one go or several."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from movinet_convert.errors import UsageError, VideoError
from movinet_convert.files.reading import file_sha256
from movinet_convert.model import MoViNet
from movinet_convert.video import processes
from movinet_convert.video.dataset import LabelledVideo, read_dataset
from movinet_convert.video.frames import MAX_CLIP_FRAMES, Sampling, read_middle, to_tensor
from movinet_convert.video.journal import Outcome, claim, read_outcomes, results_name, writer
from movinet_convert.video.logits import check_logits
from movinet_convert.weights.file import read_header
from movinet_convert.weights.labels import class_names, read_labels
from movinet_convert.weights.load import find_file, load_converted

TOP = 5


@dataclass(frozen=True)
class Evaluation:
    """Accuracy in percent over the videos that could be read; None before there is one."""

    variant: str
    videos: int
    broken: int
    right: int
    right_in_5: int

    @property
    def read(self) -> int:
        return self.videos - self.broken

    @property
    def top1(self) -> float | None:
        return 100 * self.right / self.read if self.read else None

    @property
    def top5(self) -> float | None:
        return 100 * self.right_in_5 / self.read if self.read else None


def evaluate(
    name: str | os.PathLike[str],
    data: Path,
    out: Path,
    *,
    videos: Path | None = None,
    labels: Path | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    frames: int | None = None,
    device: torch.device | str | None = None,
    threads: int = 0,
    retry: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Top-1 and top-5 of a converted variant or file over labelled videos; see ``read_dataset``.

    As published: one clip from the middle of each video, of the variant's frames (or ``frames``)
    at its rate; a shorter video is repeated. A video that cannot be read to its end counts as
    broken and is left out of the accuracy. See ``rank`` for when a video counts as right.
    ``labels`` is a file with the names of the classes, where the weights do not carry them.

    Each result goes to the folder ``out`` at once, and a run that finds results there resumes with
    what is missing, and with ``retry`` also with the broken videos. Under torchrun the processes
    share the work and return the same. ``progress`` is told how many of how many videos are done,
    those of earlier runs included; of several processes, each tells of its share.

    Raises as ``load_converted`` does, UsageError where ``out`` belongs to another evaluation,
    WeightsError for logits that judge nothing, EvaluationError where a result cannot be written.
    """
    if frames is not None and not 1 <= frames <= MAX_CLIP_FRAMES:
        raise UsageError(f"A clip has from 1 to {MAX_CLIP_FRAMES} frames, got {frames}.")
    path = find_file(name, weights_dir=weights_dir)
    model = load_converted(path, device=device, fuse=True)
    if labels is not None:
        names = read_labels(labels, model.num_classes)
    else:
        names = class_names(read_header(path).labels, model.num_classes)
    listed = read_dataset(data, names, videos)
    length = frames or model.variant.input.frames
    with processes.group() as group:
        claim(out, file_sha256(path), listed, length)
        known = read_outcomes(out, listed, model.num_classes)
        missing = [video for video in listed if _is_missing(known.get(video.name), retry)]
        mine = missing[group.rank :: group.size]
        before = (len(listed) - len(missing)) // group.size
        group.wait()  # nobody writes before everybody has read
        with writer(out / results_name(group.rank)) as write:
            for done, video in enumerate(mine, before):
                if progress is not None:
                    progress(done, before + len(mine))
                write(_outcome(model, video, length, threads))
        group.wait()
        outcomes = read_outcomes(out, listed, model.num_classes)
        return _summary(model.variant.name, listed, outcomes)


def rank(logits: Tensor, label: int) -> int:
    """How many classes (of logits (classes,)) are at least as likely as the right one; 0 is best.

    A tie counts against the model: what cannot tell two classes apart has not found the right one.
    """
    return int((logits >= logits[label]).sum()) - 1


def _is_missing(outcome: Outcome | None, retry: bool) -> bool:
    return outcome is None or (retry and outcome.error is not None)


def _outcome(model: MoViNet, video: LabelledVideo, length: int, threads: int) -> Outcome:
    weight = model.classifier.output.weight
    try:
        read = read_middle(video.path, Sampling.of(model.variant), length, threads=threads)
    except VideoError as error:
        return Outcome(video.name, video.label, error=str(error))
    clip = to_tensor(read).to(weight.device, weight.dtype)
    with torch.inference_mode():
        logits = model(clip[None])[0].float().cpu()
    check_logits(logits, video.path)
    place, predicted = rank(logits, video.label), int(logits.argmax())
    return Outcome(video.name, video.label, rank=place, predicted=predicted)


def _summary(
    variant: str, listed: Sequence[LabelledVideo], outcomes: Mapping[str, Outcome]
) -> Evaluation:
    mine = [outcomes[video.name] for video in listed]
    ranks = [outcome.rank for outcome in mine if outcome.rank is not None]
    return Evaluation(
        variant=variant,
        videos=len(mine),
        broken=len(mine) - len(ranks),
        right=sum(rank == 0 for rank in ranks),
        right_in_5=sum(rank < TOP for rank in ranks),
    )
