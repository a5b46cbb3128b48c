"""``movinet-convert inspect``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from movinet_convert.commands.options import json_option, reported
from movinet_convert.terminal import echo, echo_json
from movinet_convert.variants import with_origins

if TYPE_CHECKING:
    from movinet_convert.inspection import Inspection


@click.command("inspect")
@click.argument("path", metavar="PATH")
@click.option("--variables", is_flag=True, help="List every weight with its name and shape.")
@json_option
def inspect_command(path: str, variables: bool, as_json: bool) -> None:
    """Say what a checkpoint or a converted file holds, without converting it.

    PATH is anything that --checkpoint takes, or a converted .safetensors file, which is compared
    with its digests first.

    \b
    Example: movinet-convert inspect movinet_a2_stream.tar.gz --variables
    """
    from movinet_convert.inspection import inspect

    with reported(as_json):
        found = inspect(path)
        if as_json:
            _print_json(found, variables)
        else:
            _print(found, variables)


def _print_json(found: Inspection, variables: bool) -> None:
    data = {**asdict(found), "path": str(found.path), "values": found.values}
    if not variables:
        data["variables"] = len(found.variables)
    echo_json(data)


def _print(found: Inspection, variables: bool) -> None:
    facts = {
        "layout": found.layout,
        "variant": " or ".join(found.variants),
        "classes": found.num_classes or "none: a backbone without classifier",
        **_settings(found),
        "weights": f"{len(found.variables)} variables, {found.values:,} values",
    }
    if found.header is not None:
        facts["made from"] = found.source or "not recorded, or trained with this package"
        facts["header"] = found.header
    if found.labels is not None:
        facts["labels"] = ", ".join(found.labels)
    echo(str(found.path))
    for name, value in facts.items():
        echo(f"  {name:<15} {value}")
    for name, reason in found.ignored.items():
        echo(f"  left out {name} ({reason})")
    if variables:
        for variable in found.variables:
            shape = " x ".join(map(str, variable.shape)) or "scalar"
            echo(f"  {variable.name}  {shape}")


def _settings(found: Inspection) -> dict[str, str]:
    """What no checkpoint tells, and where a converted file has it from."""
    if found.settings is not None:
        return with_origins(found.settings, found.origins)
    known = {"gating": found.gating, "head activation": None, "legacy": None}
    if len(found.variants) == 1:
        known["legacy"] = "no"
    return {
        name: value or f"unknown: choose it with --{name.replace(' ', '-')} when you convert"
        for name, value in known.items()
    }
