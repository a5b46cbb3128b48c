"""Options that would have no effect are errors: who gives one expects something of it."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import click

# By option: those that have no effect beside it.
IGNORED = {
    "no_verify": ("clips", "frames", "size", "tolerance"),
    "checkpoint": ("source", "offline"),
    "synthetic": ("source", "offline"),
}


def refuse_ignored(given: AbstractSet[str]) -> None:
    """Raise UsageError for options of a conversion that another one leaves without effect."""
    for option, ignored in IGNORED.items():
        # The seed is that of synthetic weights too.
        seed = ("seed",) if option == "no_verify" and "synthetic" not in given else ()
        for other in (*ignored, *seed):
            if option in given and other in given:
                raise click.UsageError(
                    f"{_flag(other)} has no effect with {_flag(option)}; leave one of them out."
                )


def refuse_before_command(given: AbstractSet[str], command: str) -> None:
    """Raise UsageError for options of a conversion before the name of another command."""
    if given:
        option = _flag(min(given))
        raise click.UsageError(
            f"{option} before {command!r} is an option of a conversion and has no effect; if "
            f"{command} has it, give it after the name: movinet-convert {command} … {option}."
        )


def _flag(option: str) -> str:
    names = {"archs": "arch", "every": "all", "as_json": "json", "store_as": "name"}
    return f"--{names.get(option, option).replace('_', '-')}"
