"""``load_exported``: a file that ``export`` wrote, with the interface of the network in it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from movinet_convert.errors import ExportError, MovinetError, UsageError
from movinet_convert.export.formats import FORMATS
from movinet_convert.export.metadata import Metadata, parse
from movinet_convert.export.outputs import contents
from movinet_convert.export.runtime import Run, copied, quiet, without_gradients
from movinet_convert.export.step import CLIP_FRAMES
from movinet_convert.model.input_check import RangeCheck, order_advice, require_float
from movinet_convert.model.settings import get_variant
from movinet_convert.model.state import StateSpec, StreamState
from movinet_convert.model.transforms import CHANNELS, ClipTransform
from movinet_convert.weights.file import DTYPES
from movinet_convert.weights.labels import known_names
from movinet_convert.weights.naming import SUFFIX as WEIGHTS_SUFFIX

SUFFIXES = tuple(dict.fromkeys(row.suffix for row in FORMATS.values() if row.suffix))
MARKERS = {row.marker: name for name, row in FORMATS.items() if row.marker}  # of folders


class ExportedModel:
    """A network in the runtime of its file, on the CPU; ``load_exported`` opens one.

    ``model(clip)`` and ``model.stream(frames, state)`` are those of the network that was exported,
    with its states: one of the eager network may be continued here, and the other way round.
    ``labels`` are the class names, None if unknown, ``size`` the height and width of the frames,
    ``frames`` how many one call of a stream takes: any multiple of them may be passed, and
    ``model(clip)`` of a base variant takes from 2 to 1024 frames, of any size in a SavedModel; in
    an ExecuTorch or LiteRT file, the number it was exported for. ``batch`` is the number of videos
    that a call computes, up to which any number may be passed.

    Raises UsageError for other shapes. Calls from several threads run one after the other.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path, format: str, described: Metadata, run: Run) -> None:
        self.format = format
        self.path = path
        self.variant = get_variant(described.variant)
        self.settings = described.settings
        self.num_classes = described.num_classes
        self.labels = known_names(described.labels, described.num_classes)
        clip = described.inputs[0]
        self.dtype = DTYPES[clip.dtype]  # type: ignore[index]  # checked by Metadata
        self.frames = clip.shape[2] if self.settings.causal else None
        self.batch, self.size = clip.shape[0], (clip.shape[3], clip.shape[4])
        self._row = FORMATS[format]
        # Of a clip: the fewest and the most frames.
        self._lengths = (clip.shape[2],) * 2 if self._row.fixed_frames else CLIP_FRAMES
        self._run = run
        self._lock = threading.RLock()
        self._running: _Video | None = None  # whose states are in the memory of the runtime
        self._spec = StateSpec.of(self.variant, self.settings)
        self._zeros: StreamState | None = None
        self._range_check = RangeCheck()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the runtime reads."""
        companions = (self.path.with_suffix(suffix) for suffix in self._row.companions)
        return (*contents(self.path), *companions)

    @property
    def shortest(self) -> int:
        """The fewest frames that it takes."""
        return self.frames or self._lengths[0]

    @property
    def call_frames(self) -> int:
        """Frames of one call: of a stream, or of a clip if the file takes one number; else 1."""
        return self.frames or (self._lengths[0] if self._row.fixed_frames else 1)

    def transforms(self) -> ClipTransform:
        """Decoded frames -> a clip of the size of this file."""
        return ClipTransform.of(self.variant, self.size)

    def initial_state(self, batch: int, height: int, width: int) -> StreamState:
        """As of ``MoViNet``."""
        return self._spec.zeros(batch, height, width, self.dtype, self.device)

    def check_state(self, state: StreamState, batch: int, height: int, width: int) -> None:
        """As of ``MoViNet``: raises StateError for a state that does not fit."""
        self._spec.check(state, batch, height, width, self.variant.name)

    def __call__(self, clip: Tensor) -> Tensor:
        """Logits (B, classes) of whole clips (B, 3, T, H, W)."""
        if self.settings.causal:
            return self.stream(clip)[0]
        self._check(clip, self._lengths)
        with self._lock, without_gradients():
            return self._run([self._filled(clip).to(self.device, self.dtype)])[0][: len(clip)]

    def stream(
        self, frames: Tensor, state: StreamState | None = None, *, per_frame: bool = False
    ) -> tuple[Tensor, StreamState]:
        """Logits (B, classes) after the frames (B, 3, t, H, W), and the state to resume from.

        As ``MoViNet.stream``: no call changes a state, and None starts a video. ``per_frame``
        needs a file for single frames. Raises UsageError for a base variant and other shapes,
        StateError for a state that does not fit.
        """
        calls = self._chunks(frames)
        if per_frame and self.frames != 1:
            raise UsageError(
                f"{self.path} has logits after every {self.frames} frames only; export "
                f"{self.variant.name} with frames=1 for those of every frame."
            )
        if state is not None:
            self.check_state(state, len(frames), *self.size)
            state = state if len(frames) == self.batch else state.select(self._places(frames))
        with self._lock, without_gradients():
            video = _Video(self._to_file(state))
            logits = [self._step(call, video)[: len(frames)] for call in calls]
            after = self._from_file(video)
        if len(frames) < self.batch:
            after = after.select(range(len(frames)))
        return torch.stack(logits, dim=1) if per_frame else logits[-1], after

    def stream_video(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Logits (B, classes) after each chunk (B, 3, t, H, W) of some videos: the fast path.

        The states stay in the memory of the runtime, which ``stream`` copies them out of; only
        where videos are run in turn are they copied, at every change from one to another.
        """
        video = None
        for frames in chunks:
            calls = self._chunks(frames)
            with self._lock, without_gradients():
                video = video or _Video(self._to_file(None))
                logits = [self._step(call, video) for call in calls][-1]
            yield logits[: len(frames)]

    def _step(self, frames: Tensor, video: _Video) -> Tensor:
        """One call of the runtime, which continues ``video``."""
        if self._row.reuses_memory and self._running is not video:
            if self._running is not None:
                self._running.states = [copied(tensor) for tensor in self._running.states]
            self._running = video
        logits, *video.states = self._run([frames, *video.states])
        return logits

    def _to_file(self, state: StreamState | None) -> list[Tensor]:
        if self._zeros is None:
            self._zeros = self.initial_state(self.batch, *self.size)
        pairs = zip((state or self._zeros).tensors(), self._zeros.tensors(), strict=True)
        return [
            self._row.layout.to_file(given.detach().to(self.device, zero.dtype))
            for (_, given), (_, zero) in pairs
        ]

    def _from_file(self, video: _Video) -> StreamState:
        if self._row.reuses_memory:
            video.states = [copied(tensor) for tensor in video.states]
            self._running = None
        shapes, from_file = self._spec.shapes(self.batch, *self.size), self._row.layout.from_file
        pairs = zip(shapes.items(), video.states, strict=True)
        return StreamState.of_tensors({name: from_file(t, shape) for (name, shape), t in pairs})

    def _chunks(self, frames: Tensor) -> Sequence[Tensor]:
        """The frames of a stream, split into those of one call."""
        if self.frames is None:
            raise UsageError(
                f"{self.variant.name} reads whole clips and cannot stream; "
                f"use model(clip), or export {self.variant.arch}-stream."
            )
        self._check(frames, None)
        filled = self._filled(frames.detach().to(self.device, self.dtype))
        return torch.split(filled, self.frames, dim=2)

    def _places(self, videos: Tensor) -> list[int]:
        """The indices of the videos, filled up to a batch with the last."""
        return [min(i, len(videos) - 1) for i in range(self.batch)]

    def _filled(self, clip: Tensor) -> Tensor:
        return clip if len(clip) == self.batch else clip[self._places(clip)]

    def _check(self, clip: Tensor, frames: tuple[int, int] | None) -> None:
        """Raise UsageError for a clip that the file does not support."""
        given = tuple(clip.shape)
        any_size = self._row.any_size and not self.settings.causal and len(given) == 5
        height, width = given[3:] if any_size else self.size
        most = "one video" if self.batch == 1 else f"up to {self.batch} videos"
        fits = len(given) == 5 and 1 <= given[0] <= self.batch
        if not fits or (given[1], *given[3:]) != (CHANNELS, height, width):
            raise UsageError(
                f"{self.path} was exported for {most} of {height}x{width} at a time, "
                f"({self.batch}, {CHANNELS}, T, {height}, {width}); got shape {given}"
                f"{order_advice(given)}: pass such ones, or export for another size or batch."
            )
        require_float(clip)
        if frames is not None and not frames[0] <= given[2] <= frames[1]:
            possible = f"{frames[0]}" if self._row.fixed_frames else f"{frames[0]} to {frames[1]}"
            raise UsageError(
                f"{self.path} takes clips of {possible} frames; got {given[2]}: pass such a clip, "
                f"or export {self.variant.name} with another number of frames."
            )
        if self.frames is not None and (given[2] == 0 or given[2] % self.frames):
            raise UsageError(
                f"{self.path} takes {self.frames} frames in one call, or a multiple of them; got "
                f"{given[2]}: pass others, or export {self.variant.name} with frames=1."
            )
        self._range_check(clip)


@dataclass(eq=False)
class _Video:
    """The states of a video as the runtime returned them, perhaps in memory that it reuses."""

    states: list[Tensor]


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the name of an exported file, or is such a folder."""
    path = Path(path)
    return path.suffix.lower() in SUFFIXES or _folder_format(path) is not None


def _folder_format(path: Path) -> str | None:
    found = (name for marker, name in MARKERS.items() if (path / marker).is_file())
    return next(found, None)


def load_exported(
    path: str | os.PathLike[str], threads: int | None = None, *, trusted: bool = False
) -> ExportedModel:
    """Open a file that ``export`` wrote, in its own runtime, as the model it came from.

    ``threads`` are the runtime's; for PyTorch's own formats that is ``torch.set_num_threads``, and
    TensorFlow cannot change it once it runs, and ExecuTorch has one pool for all files of a
    process. Files of others are safe to open, except with ``trusted=True``, which ``aot-inductor``
    and ``saved-model`` need: they are code.

    Raises UsageError for a name that is no export's, ExportError for a file that is damaged, was
    not written by ``export`` or would run code, MissingExtraError without the runtime.
    """
    path = Path(path)
    if not is_exported(path):
        advice = "; load converted weights with load_converted" * (path.suffix == WEIGHTS_SUFFIX)
        raise UsageError(
            f"{path} is not opened: files of {', '.join(FORMATS)} are, which are folders with a "
            f"{' or a '.join(MARKERS)}, or whose names end in {', '.join(SUFFIXES[:-1])} or "
            f"{SUFFIXES[-1]}{advice}."
        )
    if not path.is_file() and _folder_format(path) is None:
        raise UsageError(f"There is no file {path}.")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is a number of at least 1, not {threads}.")
    format, described = _metadata(path)
    with _explained(path), quiet():
        run = FORMATS[format].runtime.open_file(path, threads, trusted=trusted)
    return ExportedModel(path, format, described, run)


def _metadata(path: Path) -> tuple[str, Metadata]:
    """The format of a file, of those with its suffix, and its metadata."""
    folder, suffix = _folder_format(path), path.suffix.lower()
    rows = [folder] if folder else [n for n, row in FORMATS.items() if row.suffix == suffix]
    problem: ExportError | None = None
    for format in rows:
        try:
            with _explained(path):
                text = FORMATS[format].runtime.read_metadata(path)
        except ExportError as error:
            problem = error
        else:
            return format, parse(text, str(path))
    raise ExportError(
        f"{path} cannot be opened: it is damaged, or export did not write it as "
        f"{' or '.join(rows)}; export it again."
    ) from problem


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise what a runtime says of a file that it cannot open as ExportError."""
    try:
        yield
    except MovinetError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise ExportError(
            f"{path} cannot be opened ({reason}): it is damaged, or export did not write it; "
            "export it again."
        ) from error
