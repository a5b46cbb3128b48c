"""What libraries in C++ write to stderr, such as the converters and runtimes of exported files."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import click

from movinet_convert.errors import MovinetError

STDERR = 2


@contextmanager
def native_logs_hidden() -> Iterator[None]:
    """Keep native log lines off the terminal; what Python prints is shown as ever.

    They are shown afterwards with ``--debug``, and if the block raises what was not foreseen.
    """
    try:
        terminal = os.dup(STDERR)
    except OSError:  # it is closed
        yield
        return
    shown = bool(click.get_current_context().meta.get("debug"))
    python_stderr = sys.stderr
    with tempfile.TemporaryFile() as log, os.fdopen(terminal, "w", errors="backslashreplace") as to:
        if _is_native(python_stderr):
            python_stderr.flush()
            sys.stderr = to
        os.dup2(log.fileno(), STDERR)
        try:
            yield
        except MovinetError:
            raise
        except BaseException:
            shown = True
            raise
        finally:
            to.flush()
            os.dup2(terminal, STDERR)
            sys.stderr = python_stderr
            if shown:
                log.seek(0)
                os.write(STDERR, log.read())


def _is_native(stream: object) -> bool:
    """Whether Python's stderr is the process's, and not replaced."""
    try:
        return stream.fileno() == STDERR  # type: ignore[attr-defined, no-any-return]
    except (AttributeError, OSError, ValueError):
        return False
