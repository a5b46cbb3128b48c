"""Accuracy over labelled videos, resumable, in one process or many."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from movinet_convert.errors import VideoError
from movinet_convert.files.reading import file_sha256
from movinet_convert.files.writing import refuse_inputs
from movinet_convert.video import processes
from movinet_convert.video.accuracy import Accuracy, measure, ranked
from movinet_convert.video.accuracy_files import FILE_NAMES, write_accuracy_files
from movinet_convert.video.dataset import LabelledVideo, read_dataset
from movinet_convert.video.frames import check_length, read_middle
from movinet_convert.video.journal import Outcome, claim, read_outcomes, results_name, writer
from movinet_convert.video.models import ExportedFile
from movinet_convert.video.plot import figure_type
from movinet_convert.video.predict import Predictor, check_logits, load_predictor
from movinet_convert.weights.labels import Labels
from movinet_convert.weights.load import find_file


@dataclass(frozen=True)
class Evaluation:
    """The accuracy over the videos that could be read; ``labels`` name all classes."""

    variant: str
    labels: tuple[str, ...]
    videos: int
    accuracy: Accuracy

    @property
    def read(self) -> int:
        return self.accuracy.top1.total

    @property
    def broken(self) -> int:
        return self.videos - self.read

    @property
    def top1(self) -> float | None:
        """In percent; None if no video could be read."""
        return self.accuracy.top1.percent

    @property
    def top5(self) -> float | None:
        return self.accuracy.top5.percent

    @property
    def top1_of_all(self) -> tuple[float, float]:
        """Top-1 in percent, had all videos that could not be read been wrong, or been correct."""
        correct = self.accuracy.top1.correct
        return 100 * correct / self.videos, 100 * (correct + self.broken) / self.videos


def evaluate(
    name: str | os.PathLike[str],
    data: Path,
    out: Path,
    *,
    videos: Path | None = None,
    labels: Labels | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    frames: int | None = None,
    fps: float | None = None,
    device: torch.device | str | None = None,
    threads: int = 0,
    retry: bool = False,
    exported: ExportedFile | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Top-1 and top-5 of a converted variant or file over labelled videos; see ``read_dataset``.

    ``exported`` is evaluated instead of ``name``.

    As in the published evaluation: one clip from the middle of each video, with the variant's
    number of frames (or ``frames``, or those of an exported file for clips of one length) at its
    frame rate (or ``fps``); shorter videos are repeated. A video that cannot be read to its end is
    counted as broken and excluded from the accuracy. ``ranked`` defines when a prediction is
    correct. ``labels`` are as for ``load_predictor``.

    Each result is written to the folder ``out`` immediately; a run that finds results there resumes
    with the missing videos, and with ``retry`` also with the broken ones. At the end
    ``write_accuracy_files`` adds its files. Under torchrun the processes share the work and return
    the same result. ``progress`` is called with the number of videos done, including earlier runs,
    and the total; each process reports its own share.

    Raises as ``load_converted`` does, UsageError if ``out`` belongs to another evaluation,
    WeightsError for meaningless logits, EvaluationError if a result cannot be written,
    MissingExtraError without the extra [video].
    """
    _check_files(out, data, labels)
    if frames is not None:
        check_length(frames)
    files = exported.files if exported else (find_file(name, weights_dir=weights_dir),)
    predictor = load_predictor(
        files[0], labels=labels, fps=fps, device=device, threads=threads, exported=exported
    )
    model = predictor.model
    listed = read_dataset(data, predictor.labels, videos)
    length = frames or predictor.window_frames or model.variant.input.frames
    with processes.group() as group:
        claim(out, " ".join(map(file_sha256, files)), listed, length, predictor.fps)
        missing = _missing(listed, read_outcomes(out, listed, model.num_classes), retry)
        mine = missing[group.rank :: group.size]
        before = (len(listed) - len(missing)) // group.size
        group.wait()  # all processes read before any of them writes
        _write_outcomes(out / results_name(group.rank), predictor, mine, length, before, progress)
        group.wait()
        outcomes = read_outcomes(out, listed, model.num_classes)
        result = _summary(predictor, [outcomes[video.name] for video in listed])
        if group.rank == 0 and result.read:
            title = f"{result.variant}: top-1 {result.top1:.2f} % of {result.read} videos"
            write_accuracy_files(out, result.accuracy, result.labels, title)
    return result


def _check_files(out: Path, data: Path, labels: Labels | None) -> None:
    """Check, before hours of work, that the files written at the end overwrite no input."""
    figure_type()
    inputs = [data, labels] if isinstance(labels, (str, os.PathLike)) else [data]
    for name in FILE_NAMES:
        refuse_inputs(out / name, map(Path, inputs))


def _missing(
    listed: Sequence[LabelledVideo], known: Mapping[str, Outcome], retry: bool
) -> list[LabelledVideo]:
    """The videos without a result, and with ``retry`` those that could not be read."""
    done = {name for name, outcome in known.items() if not (retry and outcome.error is not None)}
    return [video for video in listed if video.name not in done]


def _write_outcomes(
    path: Path,
    predictor: Predictor,
    videos: Sequence[LabelledVideo],
    length: int,
    before: int,
    progress: Callable[[int, int], object] | None,
) -> None:
    with writer(path) as write:
        for count, video in enumerate(videos, before):
            if progress is not None:
                progress(count, before + len(videos))
            write(_outcome(predictor, video, length))


def _outcome(predictor: Predictor, video: LabelledVideo, length: int) -> Outcome:
    try:
        frames = read_middle(video.path, predictor.sampling, length, threads=predictor.threads)
    except VideoError as error:
        return Outcome(video.name, video.label, error=str(error))
    with torch.inference_mode():
        logits = predictor.model(predictor.batch(frames))[0].float().cpu()
    check_logits(logits, video.path)
    ranks, predicted = ranked(logits[None], torch.tensor([video.label]))
    return Outcome(video.name, video.label, rank=int(ranks), predicted=int(predicted))


def _summary(predictor: Predictor, outcomes: Sequence[Outcome]) -> Evaluation:
    read = [
        (outcome.label, outcome.rank, outcome.predicted)
        for outcome in outcomes
        if outcome.rank is not None and outcome.predicted is not None
    ]
    accuracy = measure(*([values[i] for values in read] for i in range(3)))
    return Evaluation(predictor.model.variant.name, predictor.labels, len(outcomes), accuracy)
