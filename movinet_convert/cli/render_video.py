"""How predictions show on a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from movinet_convert.cli.terminal import console, echo, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from movinet_convert.video.prediction import Guess

BAR_CELLS = 30


def print_guesses(
    heading: str, seconds: float, guesses: Sequence[Guess], cut: str | None = None
) -> None:
    """The verdict on a video; ``cut`` says why it is on less than all of it."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    for guess in guesses:
        bar = "█" * round(guess.probability * BAR_CELLS)
        table.add_row(f"{guess.probability:.1%}", guess.label, Text(bar, style="cyan"))
    terminal = console()
    note = f", cut short: {cut}" if cut else ""
    terminal.print(Text.assemble((heading, "bold"), f"  {seconds:.1f} s{note}"), soft_wrap=True)
    terminal.print(table)


def print_window(start: float, end: float, guesses: Sequence[Guess]) -> None:
    """One window of a video in a line: when, and the top classes."""
    seen = "  ".join(f"{guess.probability:.1%} {guess.label}" for guess in guesses)
    echo(f"{start:8.1f} - {end:.1f} s  {seen}")


@contextmanager
def video_progress(what: str, seconds: float | None) -> Iterator[Callable[[float, str], None]]:
    """A bar over the seconds of a video, or a pulse where its end is not known.

    On a terminal only. What it yields takes the time reached and a word on what is seen there.
    """
    if not sys.stderr.isatty():
        yield lambda _time, _seen: None
        return
    columns = (
        "{task.description}",
        BarColumn(),
        "{task.completed:.0f} s",
        TimeRemainingColumn(),
        "{task.fields[seen]}",
    )
    with progress(*columns) as bar:
        task = bar.add_task(what, total=seconds, seen="")

        def show(time: float, seen: str) -> None:
            bar.update(task, completed=time, seen=seen)

        yield show


@contextmanager
def count_progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar over a number of videos, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with progress(*columns) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
