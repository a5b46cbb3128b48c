"""``movinet-convert inspect``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.cli.options import doing, json_option, reported
from movinet_convert.cli.terminal import echo, echo_json
from movinet_convert.errors import UsageError
from movinet_convert.model.settings import with_origins

if TYPE_CHECKING:
    from movinet_convert.conversion.gating import GatingEvidence
    from movinet_convert.conversion.inspection import Inspection

CLIP_OPTIONS = ("clips", "frames", "size", "fps")


@click.command("inspect")
@click.argument("path", metavar="PATH")
@click.option("--variables", is_flag=True, help="List every weight with its name and shape.")
@click.option(
    "--gating", is_flag=True, help="Tell a stream model's gate from its moving statistics."
)
@click.option(
    "--clips",
    metavar="DIR",
    help="For --gating: videos such as the network was trained on, at least 16, better 64.",
)
@click.option("--frames", type=click.IntRange(min=1), help="Of each clip, as in training.")
@click.option("--size", type=click.IntRange(min=16), help="Pixels of each clip, as in training.")
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="As in training.")
@json_option
def inspect_command(path: str, variables: bool, as_json: bool, **options: Any) -> None:
    """Say what a checkpoint or a converted file holds, without converting it.

    PATH is anything that --checkpoint takes, or a converted .safetensors file, which is compared
    with its digests first.

    \b
    Examples:
      movinet-convert inspect movinet_a2_stream.tar.gz --variables
      movinet-convert inspect mine/ckpt-1 --gating --clips videos/
    """
    from movinet_convert.conversion.inspection import inspect

    with reported(as_json):
        _check(options)
        found = inspect(path)
        evidence = _evidence(path, options)
        if as_json:
            _print_json(found, variables, evidence)
        else:
            _print(found, variables)
            if evidence is not None:
                echo(f"  {'gating evidence':<15} {evidence.summary()}")


def _check(options: dict[str, Any]) -> None:
    if options["gating"] and options["clips"] is None:
        raise UsageError(
            "--gating needs --clips DIR: a folder of videos such as the network was trained on."
        )
    useless = [name for name in CLIP_OPTIONS if options[name] is not None]
    if useless and not options["gating"]:
        raise UsageError(f"--{useless[0]} is for --gating; give both or neither.")


def _evidence(path: str, options: dict[str, Any]) -> GatingEvidence | None:
    if not options["gating"]:
        return None
    from movinet_convert.conversion.gating import gating_evidence
    from movinet_convert.conversion.inspection import stream_network
    from movinet_convert.video.gating_clips import ClipFormat, read_clips

    form = ClipFormat(options["frames"], options["size"], options["fps"])
    with doing("Running clips through the network with either gate"):
        model = stream_network(path)
        return gating_evidence(model, read_clips(Path(options["clips"]), model.variant, form))


def _print_json(found: Inspection, variables: bool, evidence: GatingEvidence | None) -> None:
    data = {
        **asdict(found),
        "path": str(found.path),
        "values": found.values,
        "gating_evidence": evidence and evidence.to_json(),
    }
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
