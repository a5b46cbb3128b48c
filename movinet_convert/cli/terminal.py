"""Everything that the commands print: text, JSON, tables, progress bars.

Much of it is not trusted: labels, variable names, file names, a server's error messages. Terminals
execute escape sequences wherever they come from, and bidirectional controls change the displayed
order, so control and invisible characters are printed as escapes.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:  # rich takes a tenth of a second, for which --help should not wait
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.progress import ProgressColumn

# Control, format, surrogate and private-use characters, line and paragraph separators.
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
JOINERS = "\u200c\u200d"  # needed for Persian, Indic scripts and emoji

_live: list[Console] = []  # the console of each active bar or spinner


def printable(text: str, keep: str = JOINERS) -> str:
    r"""``text`` on one line; invisible characters not in ``keep`` become ``\x1b``, ``\u202e``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in keep or unicodedata.category(character) not in UNSEEN
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def echo(*lines: str, err: bool = False) -> None:
    """Print lines; line breaks within one are escaped, so that untrusted text cannot fake lines."""
    _accept_any_character(err)
    for line in lines:
        _write(printable(line), err)


def echo_page(text: str) -> None:
    """Print trusted text unchanged, such as a help page."""
    _accept_any_character(err=False)
    click.echo(text)


def echo_json(value: Any) -> None:
    """Print one JSON object on one line, in ASCII."""
    _write(json.dumps(value), err=False)


def _write(line: str, err: bool) -> None:
    """Write a line, above the progress bar if one is active on the same terminal."""
    if _live and (err or _is_terminal(sys.stdout)):
        _live[-1].print(line, soft_wrap=True)
    else:
        click.echo(line, err=err)


def console(err: bool = False) -> Console:
    """A rich console that prints strings literally: no markup, emoji codes or control codes."""
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                # Segments with control codes are rich's own, such as cursor movements.
                shown = text if control else printable(text, keep=JOINERS + "\n")
                yield Segment(shown, style, control)

    _accept_any_character(err)
    return SafeConsole(stderr=err, markup=False, emoji=False, highlight=False)


@contextmanager
def progress(
    description: str, *columns: str | ProgressColumn, total: float | None = None, **fields: Any
) -> Iterator[Callable[..., None]]:
    """A transient progress bar on stderr, on a terminal only.

    ``columns`` follow the bar; a string is a template such as ``{task.fields[seen]}``. Yields a
    function that updates the bar: ``update(completed=…, total=…, seen=…)``.
    """
    from rich.progress import BarColumn, Progress

    with (
        _live_console() as shown,
        Progress(
            "{task.description}",
            BarColumn(),
            *columns,
            console=shown,
            transient=True,
            disable=not _is_terminal(sys.stderr),
        ) as bar,
    ):
        yield partial(bar.update, bar.add_task(printable(description), total=total, **fields))


@contextmanager
def doing(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr during a long operation, on a terminal only.

    Yields a function that shows the current stage after ``what``.
    """
    if not _is_terminal(sys.stderr):
        yield lambda stage: None
        return
    from rich.progress import Progress, SpinnerColumn

    columns = (SpinnerColumn(), "{task.description}")
    with _live_console() as shown, Progress(*columns, console=shown, transient=True) as spinner:
        task = spinner.add_task(printable(what))
        # At once: TensorFlow may keep the thread that refreshes the display waiting.
        yield lambda stage: spinner.update(
            task, description=printable(f"{what}: {stage}"), refresh=True
        )


@contextmanager
def _live_console() -> Iterator[Console]:
    """A console for a bar or a spinner; while it is active, lines are printed above it.

    A bar within another shares its console, which shows one below the other.
    """
    shown = _live[-1] if _live else console(err=True)
    if not _is_terminal(sys.stderr):
        yield shown
        return
    _live.append(shown)
    try:
        yield shown
    finally:
        _live.pop()


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether people watch the stream; Python has None for one that is closed from the start."""
    return stream is not None and stream.isatty()


def _accept_any_character(err: bool) -> None:
    """Make the stream escape characters outside its encoding instead of failing."""
    reconfigure = getattr(sys.stderr if err else sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
