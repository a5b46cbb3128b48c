"""Everything that the commands print goes through here.

Much of what they print was written by others: labels, variable names, file names, the reasons that
a server gives. A terminal obeys escape sequences wherever they come from, and bidirectional
controls let a text show as another, so what is not meant to be seen is shown as an escape.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

# Control, format, surrogate and private characters, and those that end a line or a paragraph.
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
JOINERS = "\u200c\u200d"  # which Persian, Indian scripts and emoji are spelled with


def printable(text: str, keep: str = JOINERS) -> str:
    r"""``text`` on one line, with what a terminal would obey or hide as ``\x1b`` or ``\u202e``.

    Characters in ``keep`` stay as they are.
    """
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
        click.echo(printable(line), err=err)


def echo_page(text: str) -> None:
    """Print a text of our own as it is, such as a help page."""
    _accept_any_character(err=False)
    click.echo(text)


def echo_json(value: Any) -> None:
    """Print one JSON object on a line, in ASCII."""
    click.echo(json.dumps(value))


def console(err: bool = False) -> Console:
    """A console of rich's for which a string is text: no markup, no emoji codes, no controls."""
    from rich.console import Console
    from rich.segment import Segment

    if TYPE_CHECKING:
        from collections.abc import Iterable

        from rich.console import ConsoleOptions, RenderableType

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


def progress(*columns: str | ProgressColumn) -> Progress:
    """A bar on stderr that leaves nothing behind; string columns are formatted, not marked up."""
    from rich.progress import Progress, TextColumn

    plain = [TextColumn(c, markup=False) if isinstance(c, str) else c for c in columns]
    return Progress(*plain, console=console(err=True), transient=True)


def status(what: str) -> AbstractContextManager[Any]:
    """A spinner on stderr while something takes its time."""
    from rich.text import Text

    return console(err=True).status(Text(what))


def _accept_any_character(err: bool) -> None:
    """Let the stream write as an escape what its encoding does not have, instead of failing."""
    reconfigure = getattr(sys.stderr if err else sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
