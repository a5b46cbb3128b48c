"""Accuracy over labelled videos, in one process or many, in one go or several."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from movinet_convert import processes
from movinet_convert.dataset import LabelledVideo, read_dataset
from movinet_convert.errors import UsageError, VideoError
from movinet_convert.labels import class_names
from movinet_convert.loader import find_file, load_converted
from movinet_convert.video import Frame, Sampling, read_frames, to_tensor
from movinet_convert.weightfile import file_sha256, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from movinet_convert.model import MoViNet

TOP = 5
SETUP_NAME = "setup.json"
RESULTS_PATTERN = "results-*.jsonl"


@dataclass(frozen=True)
class Outcome:
    """What came of one video: the rank of the right class, 0 the best, or what was wrong."""

    video: str
    label: int
    rank: int | None = None
    predicted: int | None = None
    error: str | None = None


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
    weights_dir: str | os.PathLike[str] | None = None,
    frames: int | None = None,
    device: torch.device | str | None = None,
    threads: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Top-1 and top-5 of a converted variant or file over labelled videos; see ``read_dataset``.

    As published: one clip from the middle of each video, of the variant's frames (or ``frames``)
    at its rate; a shorter video is repeated. Videos that cannot be read are counted and skipped.

    Each result goes to the folder ``out`` at once, and a run that finds results there goes on
    with what is missing. Under torchrun the processes share the work and return the same.
    ``progress`` is told how many of how many videos of this process are done.

    Raises as ``load_converted`` does, and UsageError where ``out`` belongs to another evaluation.
    """
    path = find_file(name, weights_dir=weights_dir)
    model = load_converted(path, device=device, fuse=True)
    names = class_names(read_header(path).labels, model.num_classes)
    listed = read_dataset(data, names, videos)
    length = frames or model.variant.input.frames
    with processes.group() as group:
        _claim(out, file_sha256(path), listed, length)
        known = _outcomes(out)
        mine = [video for video in listed if video.name not in known][group.rank :: group.size]
        group.wait()  # nobody writes before everybody has read
        with _writer(out / f"results-{group.rank}.jsonl") as write:
            for done, video in enumerate(mine):
                if progress is not None:
                    progress(done, len(mine))
                write(_judge(model, video, length, threads))
        group.wait()
        return _summary(model.variant.name, listed, _outcomes(out))


def middle(frames: Sequence[Frame], length: int) -> list[Frame]:
    """``length`` frames from the middle of a video; a shorter one starts over at its end.

    As ``sample_sequence`` in official/vision/ops/preprocess_ops_3d.py.
    """
    first = max(0, (len(frames) - length) // 2)
    return [frames[(first + i) % len(frames)] for i in range(length)]


def _judge(model: MoViNet, video: LabelledVideo, length: int, threads: int) -> Outcome:
    weight = model.classifier.output.weight
    try:
        read = list(read_frames(video.path, Sampling.of(model.variant), threads=threads))
    except VideoError as error:
        return Outcome(video.name, video.label, error=str(error))
    clip = to_tensor(middle(read, length)).to(weight.device, weight.dtype)
    with torch.inference_mode():
        logits = model(clip[None])[0].float().cpu()
    better = int((logits > logits[video.label]).sum())
    return Outcome(video.name, video.label, rank=better, predicted=int(logits.argmax()))


def _claim(out: Path, weights: str, listed: Sequence[LabelledVideo], length: int) -> None:
    """Mark the folder as this evaluation's; UsageError if it is another's."""
    digest = hashlib.sha256(json.dumps([[v.name, v.label] for v in listed]).encode()).hexdigest()
    setup = {"weights_sha256": weights, "videos_sha256": digest, "frames": length}
    marker = out / SETUP_NAME
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not marker.exists():
            unfinished = marker.with_suffix(f".{os.getpid()}.unfinished")
            unfinished.write_text(json.dumps(setup, indent=2) + "\n", "utf-8")
            unfinished.replace(marker)
        found = json.loads(marker.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{marker} cannot be used ({error}); name another folder.") from None
    for key, value in setup.items():
        if found.get(key) != value:
            raise UsageError(
                f"{out} holds the results of another evaluation ({key} is {found.get(key)}, here "
                f"{value}); name another folder, or delete it to start over."
            )


@contextmanager
def _writer(path: Path) -> Iterator[Callable[[Outcome], None]]:
    """Appends outcomes, one line each, handed to the system when the call returns."""
    path.write_bytes(b"".join(_whole_lines(path)))  # a killed run may have left half a line
    with path.open("a", encoding="utf-8") as file:

        def write(outcome: Outcome) -> None:
            file.write(json.dumps(asdict(outcome)) + "\n")
            file.flush()

        yield write


def _whole_lines(path: Path) -> Iterable[bytes]:
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _outcomes(out: Path) -> dict[str, Outcome]:
    """What the results so far say, by video, whichever process wrote them."""
    outcomes: dict[str, Outcome] = {}
    for path in sorted(out.glob(RESULTS_PATTERN)):
        for line in _whole_lines(path):
            try:
                fields: dict[str, Any] = json.loads(line)
                outcome = Outcome(**fields)
            except (ValueError, TypeError):
                raise UsageError(
                    f"{path} is damaged; delete it, and its videos are judged again."
                ) from None
            outcomes[outcome.video] = outcome
    return outcomes


def _summary(
    variant: str, listed: Sequence[LabelledVideo], outcomes: dict[str, Outcome]
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
