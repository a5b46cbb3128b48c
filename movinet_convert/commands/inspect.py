"""``movinet-convert inspect``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from movinet_convert.commands.options import json_option, reported

if TYPE_CHECKING:
    from movinet_convert.inspection import Inspection


@click.command("inspect")
@click.argument("path", metavar="PATH")
@click.option("--variables", is_flag=True, help="List every weight with its name and shape.")
@json_option
def inspect_command(path: str, variables: bool, as_json: bool) -> None:
    """Say what a checkpoint or a converted file holds, without converting it.

    PATH is anything that --checkpoint takes, or a converted .safetensors file.

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
    click.echo(json.dumps(data))


def _print(found: Inspection, variables: bool) -> None:
    facts = {
        "layout": found.layout,
        "variant": " or ".join(found.variants),
        "classes": found.num_classes or "none: a backbone without classifier",
        "gating": found.gating or "unknown: choose it with --gating when you convert",
        "weights": f"{len(found.variables)} variables, {found.values:,} values",
    }
    if found.labels is not None:
        facts["labels"] = ", ".join(found.labels)
    click.echo(str(found.path))
    for name, value in facts.items():
        click.echo(f"  {name:<8} {value}")
    for name, reason in found.ignored.items():
        click.echo(f"  left out {name} ({reason})")
    if variables:
        for variable in found.variables:
            shape = " x ".join(map(str, variable.shape)) or "scalar"
            click.echo(f"  {variable.name}  {shape}")
