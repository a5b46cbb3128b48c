"""Log lines of C++ libraries are shown only where they help."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

import click
import pytest

from movinet_convert.cli.native_logs import native_logs_hidden
from movinet_convert.errors import ExportError


def work(debug: bool, error: Exception | None) -> None:
    context = click.Context(click.Command("x"))
    context.meta["debug"] = debug
    with context, native_logs_hidden():
        os.write(2, b"W0000 native line\n")
        print("our line", file=sys.stderr)
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("debug", "error", "shown"),
    [
        (False, None, False),
        (True, None, True),
        (False, ExportError("foreseen"), False),
        (False, RuntimeError("not foreseen"), True),
    ],
)
def test_native_lines_are_shown_with_debug_and_after_a_bug(
    debug: bool, error: Exception | None, shown: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    with nullcontext() if error is None else pytest.raises(type(error)):
        work(debug, error)
    os.write(2, b"after\n")
    printed = capfd.readouterr().err
    assert ("native line" in printed) == shown
    assert "our line" in printed
    assert printed.endswith("after\n")
