"""How every command reports an error: one sentence and an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from movinet_convert.cli.terminal import console, echo, echo_json
from movinet_convert.errors import MovinetError, MovinetWarning, ParityError
from movinet_convert.variants import VARIANTS, meant_variants

# In the RuntimeErrors of PyTorch, by device.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
INTERRUPTED = 130  # the exit code of shells for a command stopped by Ctrl-C


class Command(click.Command):
    """A command with ``--debug``, whose errors are one sentence, or one object with ``--json``."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                callback=lambda ctx, _, given: ctx.meta.update(debug=True) if given else None,
                help="Show the traceback of an error.",
            )
        )

    def invoke(self, ctx: click.Context) -> Any:
        with reported(ctx.params.get("as_json", False)):
            return super().invoke(ctx)


class Group(Command, click.Group):
    """A group whose commands are ``Command`` too: ``--debug`` works before or after their names."""

    command_class = Command

    def main(self, *arguments: Any, **settings: Any) -> Any:
        """As of ``click.Group``; a help page that cannot be written is an error of one sentence."""
        try:
            return super().main(*arguments, **settings)
        except OSError as error:
            echo(f"Error: {sentence(error)}", err=True)
            sys.exit(1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As of ``click.Group``; the error for the name of a variant says how to convert it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            meant = meant_variants(args[1] if args[0] == "convert" and args[1:] else args[0])
            if not meant:
                raise
            variant = VARIANTS[meant[-1]]
            causal = " --causal" if variant.causal else ""
            raise click.UsageError(
                f"No such command {args[0]!r}. {variant.name} is converted by movinet-convert "
                f"--arch {variant.arch}{causal}; verify, predict and others take its name.",
                ctx,
            ) from None


@contextmanager
def reported(as_json: bool) -> Iterator[None]:
    """Turn an exception into one sentence and its exit code; ``--debug`` shows its traceback."""
    try:
        with _warnings_as_sentences():
            yield
    except KeyboardInterrupt:
        echo("Stopped; what was finished is kept, and nothing is left half-written.", err=True)
        sys.exit(INTERRUPTED)
    except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
        raise  # click handles these
    except Exception as error:
        if click.get_current_context().meta.get("debug"):
            raise
        exit_code = error.exit_code if isinstance(error, MovinetError) else 1
        _print_error(error, exit_code, as_json)
        sys.exit(exit_code)


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Print this package's own warnings without the source line that issued them."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_sentence(
            message: Warning | str, category: type[Warning], *where: Any, **how: Any
        ) -> None:
            if issubclass(category, MovinetWarning):
                echo(f"Warning: {message}", err=True)
            else:
                show(message, category, *where, **how)

        warnings.showwarning = show_sentence
        yield


def _print_error(error: Exception, exit_code: int, as_json: bool) -> None:
    """Print one sentence on stderr, after the table if a comparison failed."""
    result = error.result if isinstance(error, ParityError) else None
    text = sentence(error)
    if as_json:
        parity = result.to_json() if result is not None else None
        echo_json({"error": text, "exit_code": exit_code, "parity": parity})
    elif result is not None:
        print_parity(result)
    echo(f"Error: {text}", err=True)


def print_parity(result: Any) -> None:
    """Print a ``ParityResult`` as a table."""
    from movinet_convert.parity.table import result_table

    console().print(result_table(result))


def sentence(error: Exception) -> str:
    """An exception as one sentence, for a person."""
    if isinstance(error, MovinetError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        # A full disk, a missing permission: the message of the system is clear enough.
        where = error.filename if error.filename is not None else "a file or its output"
        return f"The system could not read or write {where}: {error.strerror}."
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        return (
            "The memory of this machine or its GPU is not enough; close other programs, or use "
            "fewer or smaller frames, a smaller variant or another device."
        )
    return f"{type(error).__name__}: {text}. This is a bug; --debug shows the traceback."
