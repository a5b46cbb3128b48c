"""The journal of an evaluation: a folder with one line per video, from which a run resumes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from movinet_convert.errors import EvaluationError, UsageError
from movinet_convert.files.reading import open_regular
from movinet_convert.files.writing import replacing
from movinet_convert.video.dataset import LabelledVideo

SETUP_NAME = "setup.json"
RESULTS_PATTERN = "results-*.jsonl"
RESULTS_VERSION = 3  # since 2, ties count against the model; since 3, frames are scaled otherwise
MAX_SETUP_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 18


@dataclass(frozen=True)
class Outcome:
    """The result of one video: the rank of the correct class, 0 the best, or the error."""

    video: str
    label: int
    rank: int | None = None
    predicted: int | None = None
    error: str | None = None


def results_name(process: int) -> str:
    """Name of the file that a process writes."""
    return RESULTS_PATTERN.replace("*", str(process))


def claim(
    out: Path, weights: str, listed: Sequence[LabelledVideo], frames: int, fps: float
) -> None:
    """Mark the folder as this evaluation's; UsageError if it belongs to another one."""
    digest = hashlib.sha256(json.dumps([[v.name, v.label] for v in listed]).encode()).hexdigest()
    setup = {
        "results_version": RESULTS_VERSION,
        "weights_sha256": weights,
        "videos_sha256": digest,
        "frames": frames,
        "fps": fps,
    }
    marker = out / SETUP_NAME
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not marker.exists():
            with replacing(marker) as temporary:
                temporary.write_text(json.dumps(setup, indent=2) + "\n", "utf-8")
        with open_regular(marker, UsageError) as file:
            found = json.loads(file.read(MAX_SETUP_BYTES))
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{marker} cannot be used ({error}); name another folder.") from None
    for key, value in setup.items():
        if found.get(key) != value:
            raise UsageError(
                f"{out} holds the results of another evaluation ({key} is {found.get(key)!r:.80}, "
                f"here {value!r}); name another folder, or delete it to start over."
            )


@contextmanager
def writer(path: Path) -> Iterator[Callable[[Outcome], None]]:
    """A function that appends an outcome as one line and flushes it before it returns.

    An incomplete last line, left by a killed run, is removed first. Raises EvaluationError if the
    disk is full or the file cannot be written; its complete lines stay.
    """
    with _explained(path):
        if path.exists():  # shortened in place, which works on a full disk
            os.truncate(path, sum(len(line) for line in _lines(path)))
        file = path.open("ab", buffering=0)

    def write(outcome: Outcome) -> None:
        rest = json.dumps(asdict(outcome)).encode() + b"\n"
        with _explained(path):
            while rest:  # a disk that fills up accepts part of the line before it raises
                rest = rest[file.write(rest) :]

    with file:
        yield write


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be written ({error.strerror}); the results so far are kept, and the "
            "same command resumes the run."
        ) from None


def read_outcomes(
    out: Path, listed: Sequence[LabelledVideo], num_classes: int
) -> dict[str, Outcome]:
    """The results so far of the listed videos, by name, from all processes.

    If a video has several, a successful one takes precedence. Raises UsageError for a file that
    contains anything but results of these videos.
    """
    labels = {video.name: video.label for video in listed}
    outcomes: dict[str, Outcome] = {}
    for path in sorted(out.glob(RESULTS_PATTERN)):
        for number, line in enumerate(_lines(path), 1):
            outcome = _parsed(line, labels, num_classes)
            if outcome is None:
                raise UsageError(
                    f"{path}, line {number}, is not a result of this evaluation; delete the file "
                    "to evaluate its videos again."
                )
            if outcome.error is None or outcome.video not in outcomes:
                outcomes[outcome.video] = outcome
    return outcomes


def _lines(path: Path) -> Iterator[bytes]:
    """The complete lines of a file; overlong ones are cut."""
    try:
        with open_regular(path, UsageError) as file:
            while line := file.readline(MAX_LINE_BYTES):
                if line.endswith(b"\n") or len(line) == MAX_LINE_BYTES:
                    yield line
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from None


def _parsed(line: bytes, labels: Mapping[str, int], num_classes: int) -> Outcome | None:
    """The result in a line, or None if it is invalid or not of one of the videos."""
    try:
        outcome = Outcome(**json.loads(line))
        label = labels[outcome.video]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    places = (outcome.rank, outcome.predicted)
    if outcome.error is None:
        fits = all(type(place) is int and 0 <= place < num_classes for place in places)
    else:
        fits = isinstance(outcome.error, str) and places == (None, None)
    return outcome if fits and type(outcome.label) is int and outcome.label == label else None
