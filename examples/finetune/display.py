"""The progress of a run: a bar on a terminal, and lines with the time of day in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import Progress, TextColumn

from examples.finetune.checkpoint import EpochMetrics

LOG_SECONDS = 30.0  # between the lines of a log
MAX_NAMED = 10  # unreadable videos


class ProgressBar:
    """A progress bar on a terminal, lines in a log, and one per epoch; nothing if ``quiet``."""

    def __init__(self, epochs: int, quiet: bool) -> None:
        self._epochs, self._quiet = epochs, quiet
        self._terminal = sys.stderr.isatty()
        self._logged = time.monotonic()
        self._bar = Progress(
            *Progress.get_default_columns(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            console=Console(stderr=True),
            disable=quiet or not self._terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", loss=0.0, visible=False)

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        self._bar.update(
            self._task,
            description=f"epoch {epoch + 1}",
            completed=batch,
            total=batches,
            loss=loss,
            visible=True,
        )
        if self._quiet or self._terminal or time.monotonic() - self._logged < LOG_SECONDS:
            return
        self._logged = time.monotonic()
        place = f"epoch {epoch + 1}/{self._epochs}, batch {batch}/{batches}"
        print(f"{_time_of_day()}  {place}, loss {loss:.3f}", file=sys.stderr, flush=True)

    def epoch(self, metrics: EpochMetrics) -> None:
        self._bar.reset(self._task, visible=False, loss=0.0)
        if not self._quiet:
            name = "accuracy" if metrics.held_out_accuracy is not None else "mAP"
            print(
                f"{_time_of_day()}  epoch {metrics.epoch:3}/{self._epochs}  "
                f"loss {metrics.training_loss:.3f}  held out: loss {metrics.held_out_loss:.3f}, "
                f"{name} {metrics.score:.1%}  ({metrics.seconds:.0f} s)",
                flush=True,
            )


def print_unreadable(unreadable: Mapping[str, str]) -> None:
    if unreadable:
        print(f"{len(unreadable)} videos could not be read and were skipped:", file=sys.stderr)
    for reason in list(unreadable.values())[:MAX_NAMED]:
        print(f"  {reason}", file=sys.stderr)
    if len(unreadable) > MAX_NAMED:
        print(f"  and {len(unreadable) - MAX_NAMED} more", file=sys.stderr)


def _time_of_day() -> str:
    return time.strftime("%H:%M:%S")
