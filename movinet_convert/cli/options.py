"""What the commands share: options, and how errors and waiting show."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.cli.terminal import echo, echo_json, status
from movinet_convert.errors import MovinetError, MovinetWarning, ParityError
from movinet_convert.parity import report_json
from movinet_convert.parity.options import (
    MAX_TOLERANCES,
    MIN_FRAMES,
    MIN_SIZE,
    TOLERANCES,
    ParityOptions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import TextIO

    _SizeType = click.ParamType[tuple[int, int]]
else:
    _SizeType = click.ParamType

INTERRUPTED = 130  # what a shell reports of a command stopped by Ctrl-C


class Size(_SizeType):
    """``HxW`` in pixels, such as 172x172."""

    name = "HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not height x width in pixels, such as 172x172.", param, ctx)
        return int(parts[0]), int(parts[1])


def weights_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--weights-dir",
        metavar="DIR",
        help="The store; else $MOVINET_WEIGHTS_DIR, else the per-user data folder.",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
    )(command)


def debug_option() -> click.Option:
    """``--debug`` after the name of a subcommand, with the meaning that it has before it."""

    def keep(context: click.Context, _: click.Parameter, given: bool) -> None:
        if given:
            context.find_root().params["debug"] = True

    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=keep,
        help="Show where an error arose.",
    )


def parity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how thoroughly to compare; see ``ParityOptions``."""
    for option in (
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Of the random clips.",
        ),
        click.option(
            "--clips",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Random clips a case.",
        ),
        click.option(
            "--frames",
            type=int,
            help=f"Frames of a clip, at least {MIN_FRAMES}; leaves out the long case.",
        ),
        click.option(
            "--size",
            type=Size(),
            help=f"Height and width of a clip, at least {MIN_SIZE}x{MIN_SIZE}; leaves out the case "
            "at the variant's own size.",
        ),
        click.option(
            "--tolerance",
            type=float,
            help="Largest difference that passes, relative to the spread of the reference tensor: "
            f"{TOLERANCES['float32']:g} for float32, at most {MAX_TOLERANCES['float32']:g}.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def reported(as_json: bool) -> Iterator[None]:
    """Turn an error into one sentence and its exit code; ``--debug`` shows where it arose."""
    try:
        with _warnings_as_sentences():
            yield
    except KeyboardInterrupt:
        echo("Stopped; nothing was changed.", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        raise  # whoever read the output has seen enough: click ends quietly
    except Exception as error:
        if click.get_current_context().find_root().params.get("debug"):
            raise
        _print_error(error, as_json)
        sys.exit(error.exit_code if isinstance(error, MovinetError) else 1)


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Print this package's own warnings without the line of code that gave them."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_sentence(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, MovinetWarning):
                echo(f"Warning: {message}", err=True)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_sentence
        yield


def _print_error(error: Exception, as_json: bool) -> None:
    """One sentence on stderr, below the table of a comparison that failed."""
    report = error.report if isinstance(error, ParityError) else None
    text = _sentence(error)
    if as_json:
        code = error.exit_code if isinstance(error, MovinetError) else 1
        parity = report_json(report) if report is not None else None
        echo_json({"error": text, "exit_code": code, "parity": parity})
    elif report is not None:
        from movinet_convert.cli.render import print_report

        print_report(report)
    echo(f"Error: {text}", err=True)


def _sentence(error: Exception) -> str:
    if isinstance(error, MovinetError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        # A full disk, a missing permission: the system's own words say what to do.
        where = f" {error.filename}" if error.filename is not None else ""
        return f"The system could not read or write{where}: {error.strerror}."
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}. This was not foreseen; --debug shows where."


def doing(what: str) -> AbstractContextManager[Any]:
    """A spinner while something takes its time, on a terminal only."""
    if not sys.stderr.isatty():
        return nullcontext()
    return status(what)


def to_parity(options: dict[str, Any]) -> ParityOptions:
    names = ("seed", "clips", "frames", "size", "tolerance")
    parity = ParityOptions(**{name: options[name] for name in names})
    if "dtype" in options:
        parity.tolerance_for(options["dtype"])  # refuses it before any work
    return parity
