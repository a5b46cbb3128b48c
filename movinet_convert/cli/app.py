"""The command line: the options of a conversion, and the other commands.

Modules of this layer import heavy modules (torch, rich, other layers) lazily, so that help and
completion are fast.
"""

from __future__ import annotations

from typing import Any, get_args

import click
from click.core import ParameterSource

from movinet_convert.cli import completion, options
from movinet_convert.cli.command import Group
from movinet_convert.cli.convert import AUTO, convert_and_print
from movinet_convert.cli.demo import demo_command
from movinet_convert.cli.evaluate import evaluate_command
from movinet_convert.cli.export import export_command
from movinet_convert.cli.fetch import fetch_command
from movinet_convert.cli.ignored import refuse_before_command, refuse_ignored
from movinet_convert.cli.inspect import inspect_command
from movinet_convert.cli.list import list_command
from movinet_convert.cli.predict import predict_command
from movinet_convert.cli.remove import remove_command
from movinet_convert.cli.report import report_command
from movinet_convert.cli.terminal import echo_page
from movinet_convert.cli.verify import verify_command
from movinet_convert.files.version import __version__
from movinet_convert.variants import ARCHS, Activation, Gating

EXAMPLES = """
\b
Examples:
  movinet-convert --arch a2 --causal                   the release of A2 stream, verified
  movinet-convert --all                                all twelve releases
  movinet-convert --arch a0 --checkpoint movinet_a0_base/
  movinet-convert --arch a0 --causal --synthetic       random seeded weights, no download
  movinet-convert verify a2-stream
"""
STREAM_GATINGS = [*(gating for gating in get_args(Gating) if gating != "sigmoid"), AUTO]


@click.group(
    cls=Group,
    invoke_without_command=True,
    epilog=EXAMPLES,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.option(
    "--arch",
    "archs",
    type=click.Choice(list(ARCHS), case_sensitive=False),
    multiple=True,
    help="Architecture, several if repeated; with --checkpoint it is detected by default.",
)
@click.option("--causal", is_flag=True, help="The stream model; without it, the base model.")
@click.option(
    "--all", "every", is_flag=True, help="All twelve releases; with --causal the six stream models."
)
@click.option(
    "--checkpoint",
    metavar="PATH",
    shell_complete=completion.files,
    help="Your own checkpoint: folder, prefix or file.",
)
@click.option(
    "--synthetic", is_flag=True, help="Random seeded weights, written by the official model."
)
@click.option(
    "--gating",
    type=click.Choice(STREAM_GATINGS),
    help="Which hard sigmoid a stream model was trained with: keras (releases of 2021, TF-Hub) "
    "or model-garden (tf-models-official 2.8 and later); auto detects it from the weights.",
)
@click.option(
    "--gating-clips",
    metavar="DIR",
    shell_complete=completion.folders,
    help="Videos like the training data, for --gating auto: at least 16, better 64.",
)
@click.option(
    "--legacy",
    is_flag=True,
    help="The checkpoint, or the release, is an older stream model with 3D convolutions.",
)
@click.option(
    "--head-activation",
    type=click.Choice(get_args(Activation)),
    help="Activation of the classifier's hidden layer: swish (releases, TF-Hub) or hard_swish "
    "(the official training configurations of A1-, A4- and T0-Stream).",
)
@click.option(
    "--num-classes",
    type=click.IntRange(min=1),
    help="Add an untrained classifier to a backbone that was saved without one.",
)
@options.labels
@options.store("--out")
@click.option(
    "--name",
    "store_as",
    metavar="NAME",
    help="Store the weights under a name of your own, beside the variants: load_converted(NAME).",
)
@click.option("--no-verify", is_flag=True, help="Skip the comparison with the official model.")
@options.parity
@click.option("--dtype", type=click.Choice(options.DTYPES), default="float32")
@options.source
@click.option("--offline", is_flag=True, help="Use only releases that are in the cache.")
@options.as_json
@click.version_option(__version__, prog_name="movinet-convert")
@click.pass_context
def main(context: click.Context, /, **settings: Any) -> None:
    """Turn Google's TensorFlow MoViNet checkpoints into verified PyTorch weights.

    Without a command: convert a checkpoint (by default Google's release), compare it with the
    official model and write it to a store.
    """
    given = {
        option
        for option in settings
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE
    }
    if context.invoked_subcommand is not None:
        refuse_before_command(given, context.invoked_subcommand)
        return
    refuse_ignored(given)
    if settings["archs"] or settings["every"] or settings["checkpoint"]:
        convert_and_print(**settings)
    elif given:
        raise click.UsageError("Missing option '--arch': one of " + ", ".join(ARCHS) + ".")
    else:
        echo_page(context.get_help())


for command in (
    verify_command,
    list_command,
    fetch_command,
    inspect_command,
    export_command,
    predict_command,
    evaluate_command,
    demo_command,
    report_command,
    remove_command,
):
    main.add_command(command)
