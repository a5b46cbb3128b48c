"""Everything that the commands print: text, JSON, tables, progress bars.

Much of it was written by others: labels, variable names, file names, the reasons that a server
gives. A terminal obeys escape sequences wherever they come from, and bidirectional controls make
a text show as another, so control and invisible characters are shown as escapes.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # rich takes a tenth of a second, for which --help should not wait
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.progress import ProgressColumn

# Control, format, surrogate and private characters, and those that end a line or a paragraph.
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
JOINERS = "\u200c\u200d"  # which Persian, Indian scripts and emoji are spelled with

_live: list[Console] = []  # the console of the bar or spinner that is shown, if any


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
    """Print lines; a line break within one shows as an escape, so that nobody can forge a line."""
    _accept_any_character(err)
    for line in lines:
        _write(printable(line), err)


def echo_page(text: str) -> None:
    """Print a text of our own as it is, such as a help page."""
    _accept_any_character(err=False)
    click.echo(text)


def echo_json(value: Any) -> None:
    """Print one JSON object on a line, in ASCII."""
    _write(json.dumps(value), err=False)


def _write(line: str, err: bool) -> None:
    """Write a line, above the bar that is shown on the same terminal."""
    if _live and (err or sys.stdout.isatty()):
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
                # A segment with a control is rich's own, such as one that moves the cursor.
                shown = text if control else printable(text, keep=JOINERS + "\n")
                yield Segment(shown, style, control)

    _accept_any_character(err)
    return SafeConsole(stderr=err, markup=False, emoji=False, highlight=False)


@contextmanager
def progress(
    description: str, *columns: str | ProgressColumn, total: float | None = None, **fields: Any
) -> Iterator[Callable[..., None]]:
    """A bar on stderr, on a terminal only, that leaves nothing behind.

    ``columns`` follow the bar; a string is a template such as ``{task.fields[seen]}``. The function
    it yields updates the bar: ``update(completed=…, total=…, seen=…)``.
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
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        yield partial(bar.update, bar.add_task(printable(description), total=total, **fields))


@contextmanager
def doing(what: str) -> Iterator[None]:
    """A spinner on stderr while something takes its time, on a terminal only."""
    if sys.stderr.isatty():
        with _live_console() as shown, shown.status(printable(what)):
            yield
    else:
        yield


@contextmanager
def _live_console() -> Iterator[Console]:
    """A console for a bar or a spinner; while it is shown, lines are printed above it."""
    shown = console(err=True)
    if sys.stderr.isatty():
        _live.append(shown)
    try:
        yield shown
    finally:
        _live.clear()


def _accept_any_character(err: bool) -> None:
    """Let the stream write as an escape what its encoding does not have, instead of failing."""
    reconfigure = getattr(sys.stderr if err else sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
