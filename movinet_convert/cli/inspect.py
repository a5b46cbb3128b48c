"""``movinet-convert inspect``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.cli import completion, options
from movinet_convert.cli.command import Command
from movinet_convert.cli.terminal import doing, echo, echo_json
from movinet_convert.errors import UsageError

if TYPE_CHECKING:
    from movinet_convert.conversion.gating import GatingEvidence
    from movinet_convert.conversion.inspection import Inspection


@click.command("inspect", cls=Command, short_help="Describe a checkpoint or a converted file.")
@options.path
@click.option("--variables", is_flag=True, help="List every weight with its name and shape.")
@click.option(
    "--gating", is_flag=True, help="Detect a stream model's gating from its moving statistics."
)
@click.option(
    "--clips",
    metavar="DIR",
    shell_complete=completion.folders,
    help="For --gating: videos like the training data, at least 16, better 64.",
)
@click.option("--frames", type=click.IntRange(min=1), help="Of each clip, as in training.")
@click.option("--size", type=click.IntRange(min=16), help="Pixels of each clip, as in training.")
@click.option("--fps", type=options.positive, help="Frames per second, as in training.")
@options.weights_dir
@options.as_json
def inspect_command(
    name: str,
    variables: bool,
    gating: bool,
    weights_dir: str | None,
    as_json: bool,
    **clip_options: Any,
) -> None:
    """Describe a checkpoint or a converted file, without converting it.

    PATH is anything that --checkpoint accepts, or a converted .safetensors file or the name of one
    in the store, whose digests are checked first.

    \b
    Examples:
      movinet-convert inspect a2-stream
      movinet-convert inspect movinet_a2_stream.tar.gz --variables
      movinet-convert inspect mine/ckpt-1 --gating --clips videos/
    """
    from movinet_convert.conversion.inspection import inspect

    if gating and clip_options["clips"] is None:
        raise UsageError("--gating needs --clips DIR: a folder of videos like the training data.")
    useless = [name for name, value in clip_options.items() if value is not None]
    if useless and not gating:
        raise UsageError(f"--{useless[0]} is for --gating; pass both or neither.")
    found = inspect(name, weights_dir=weights_dir)
    evidence = _evidence(name, weights_dir, **clip_options) if gating else None
    if as_json:
        _print_json(found, variables, evidence)
    else:
        _print(found, variables)
        if evidence is not None:
            echo(f"  {'gating evidence':<15} {evidence.summary()}")


def _evidence(path: str, weights_dir: str | None, clips: str, **clip_format: Any) -> GatingEvidence:
    from movinet_convert.conversion.gating import gating_evidence
    from movinet_convert.conversion.inspection import stream_network
    from movinet_convert.video.clips import ClipFormat, read_clips

    with doing("Running clips through the network with both gatings"):
        model = stream_network(path, weights_dir=weights_dir)
        read = read_clips(Path(clips), model.variant, ClipFormat(**clip_format))
        return gating_evidence(model, read)


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
    echo(str(found.path), *(f"  {name:<15} {value}" for name, value in facts.items()))
    echo(*(f"  left out {name} ({reason})" for name, reason in found.ignored.items()))
    echo(*(f"  note: {note}" for note in found.notes))
    for variable in found.variables if variables else ():
        shape = " x ".join(map(str, variable.shape)) or "scalar"
        echo(f"  {variable.name}  {shape}")


def _settings(found: Inspection) -> dict[str, str]:
    """The settings that no checkpoint records; for a converted file, with their origins."""
    from movinet_convert.model.settings import with_origins

    if found.settings is not None:
        return with_origins(found.settings, found.origins)
    known = {"gating": found.gating, "head activation": found.head_activation, "legacy": None}
    if len(found.variants) == 1:
        known["legacy"] = "no"
    return {
        name: value or f"unknown: choose it with --{name.replace(' ', '-')} when you convert"
        for name, value in known.items()
    }
