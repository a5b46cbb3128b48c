"""The interface of an export format: how a file is written, and how its runtime opens it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from movinet_convert.export.layouts import Layout
from movinet_convert.export.quantization.plan import Plan
from movinet_convert.export.step import Program, clip_program
from movinet_convert.model import MoViNet

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]  # inputs in order -> outputs in order
Save = Callable[[Path, str], dict[str, Any]]  # file and metadata -> details for the report
# From the model, frames of a call, their height and width, and videos of a call.
Build = Callable[[MoViNet, int, tuple[int, int], int], Program]


@dataclass(frozen=True)
class Job:
    """One export: the program, which is that of a plan if there is one, and its precision."""

    program: Program
    dtype: str = "float32"
    quantize: str | None = None
    plan: Plan | None = None  # for int8


class Runtime(Protocol):
    """A module of this package that writes and runs one format."""

    def convert(self, job: Job, /) -> Save:
        """Convert the program; the returned function writes it to a file with its metadata."""

    def open_file(self, path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
        """Load a file.

        Unless ``trusted``, no code in the file is run and no other files but its own are read;
        ExportError if that cannot be guaranteed.
        """

    def read_metadata(self, path: Path, /) -> str:
        """The JSON of ``export.metadata``, without running the file."""


@dataclass(frozen=True)
class Format:
    """A row of ``FORMATS``."""

    runtime: Runtime
    suffix: str  # empty for a folder
    program: Build  # for stream variants
    layout: Layout  # of its states
    clip: Build = clip_program  # for base variants
    marker: str = ""  # the file by which a folder is recognised
    fuses: bool = True  # False: the program is of the network as it was trained
    companions: tuple[str, ...] = ()  # suffixes of further files, next to the one that is opened
    base: bool = True  # whether base variants can be exported
    batches: bool = True  # whether a call can take several videos
    dtypes: tuple[str, ...] = ("float32",)
    casts_model: bool = True  # False: the format itself converts the weights to the dtype
    quantize: tuple[str, ...] = ()
    int8_base: bool = True  # whether base variants can be int8
    int8_depthwise: bool = True  # whether depthwise convolutions profit from int8
    pointwise_only: bool = False  # whether other convolutions stay float in int8
    compiled: bool = False  # whether a file is code, which must be trusted
    fixed_frames: bool = False  # whether a base variant takes one number of frames
    any_size: bool = False  # whether base variants take frames of any height and width
    reuses_memory: bool = False  # whether a call overwrites the states that the last one returned


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and logs of exporters; exceptions still show."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def copied(tensor: Tensor) -> Tensor:
    """A copy by one thread, since PyTorch's would compete with those of a runtime for the cores."""
    return torch.from_numpy(tensor.numpy().copy(order="K"))


@contextmanager
def without_gradients() -> Iterator[None]:
    """Not inference mode: runtimes keep memory, and update it in place in later calls."""
    with torch.inference_mode(False), torch.no_grad():
        yield
