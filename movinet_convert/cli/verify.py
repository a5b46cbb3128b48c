"""``movinet-convert verify``."""

from __future__ import annotations

import sys
from typing import Any

import click

from movinet_convert.cli import completion, options
from movinet_convert.cli.command import Command, print_parity
from movinet_convert.cli.terminal import doing, echo_json
from movinet_convert.cli.threads import following_load


@click.command("verify", cls=Command)
@options.name
@click.option(
    "--checkpoint",
    metavar="PATH",
    shell_complete=completion.files,
    help="Compare with this checkpoint, from which the file was converted.",
)
@options.weights_dir
@options.parity
@options.as_json
def verify_command(
    name: str, checkpoint: str | None, weights_dir: str | None, as_json: bool, **settings: Any
) -> None:
    """Compare converted weights with the official TensorFlow model.

    The official model is given the file's own values or, with --checkpoint, the checkpoint's.

    \b
    Example: movinet-convert verify a2-stream --clips 3
    """
    from movinet_convert.conversion.verification import verify

    parity = options.parity_settings(settings)
    with doing(f"Comparing {name} with the official model") as stage:
        adapted = following_load(stage)
        result = verify(
            name, checkpoint=checkpoint, weights_dir=weights_dir, parity=parity, stage=adapted
        )
    if as_json:
        echo_json(result.to_json())
    else:
        print_parity(result)
    if not result.passed:
        sys.exit(1)
