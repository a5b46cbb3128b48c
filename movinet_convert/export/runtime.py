"""What a format must bring: how to write a file, and how to run it again."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from movinet_convert.export.step import Program
from movinet_convert.model import MoViNet

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters tell about their own insides from the terminal; errors still show."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@dataclass(frozen=True)
class Job:
    """One export: the program, what it says of itself, and how its numbers are kept."""

    program: Program
    metadata: str
    dtype: str
    quantize: str | None
    samples: tuple[tuple[Tensor, ...], ...] = ()  # inputs of the program, to calibrate int8 with


class Write(Protocol):
    def __call__(self, job: Job, path: Path) -> dict[str, Any]:
        """Write ``path`` (and what lies beside it); returns details for the report."""


class Open(Protocol):
    def __call__(self, path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
        """Load a file into its runtime: inputs in order -> outputs in order.

        A file that is not ``trusted`` runs no code of its own, and reads nothing beside it but
        what belongs to it; ExportError where that cannot be had.
        """


@dataclass(frozen=True)
class Format:
    """A row of the registry."""

    suffix: str
    write: Write
    open: Open
    program: Callable[[MoViNet, int, tuple[int, int]], Program]  # for stream variants
    base: bool = True  # whether base variants can be exported
    dtypes: tuple[str, ...] = ("float32",)
    quantize: tuple[str, ...] = ()
    beside: tuple[str, ...] = field(default=())  # suffixes of files that come with it
    annotate: Callable[[Path, str], None] | None = None  # gives a file other metadata
