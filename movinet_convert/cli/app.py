"""The command: reads options, calls the library, prints what it says."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from movinet_convert.cli import (
    evaluate,
    export,
    fetch,
    inspect,
    predict,
    report,
    verify,
)
from movinet_convert.cli import list as list_module
from movinet_convert.cli.options import (
    debug_option,
    doing,
    json_option,
    parity_options,
    reported,
    to_parity,
)
from movinet_convert.cli.terminal import echo_json, echo_page
from movinet_convert.errors import UsageError
from movinet_convert.files.version import __version__
from movinet_convert.variants import ARCHS, Activation, Gating

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from movinet_convert.conversion.sources import Source
    from movinet_convert.variants import Variant

EXAMPLES = """
\b
Examples:
  movinet-convert --arch a2 --causal                   the release of A2 stream, checked
  movinet-convert --arch a0 --checkpoint movinet_a0_base/
  movinet-convert --arch a0 --causal --synthetic       no network needed
  movinet-convert verify a2-stream
"""
AUTO = "auto"
STREAM_GATINGS = [*(gating for gating in get_args(Gating) if gating != "sigmoid"), AUTO]
DTYPES = ["float32", "float16", "bfloat16"]


@click.group(
    invoke_without_command=True,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--arch", type=click.Choice(list(ARCHS)), help="Architecture; a checkpoint tells its own."
)
@click.option("--causal", is_flag=True, help="The stream model; without it, the base model.")
@click.option("--checkpoint", metavar="PATH", help="A checkpoint of yours: folder, prefix or file.")
@click.option(
    "--synthetic", is_flag=True, help="Seeded weights, written on the spot by the official model."
)
@click.option(
    "--gating",
    type=click.Choice(STREAM_GATINGS),
    help="Which hard sigmoid a stream model was trained with: keras (releases of 2021, TF-Hub) "
    "or model-garden (tf-models-official 2.8 and later); auto reads it from the weights.",
)
@click.option(
    "--gating-clips",
    metavar="DIR",
    help="Videos such as the network was trained on, for --gating auto: at least 16, better 64.",
)
@click.option(
    "--legacy", is_flag=True, help="The checkpoint is an older stream model with 3D convolutions."
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
    help="Give a backbone that was saved without a classifier an untrained one.",
)
@click.option("--out", metavar="DIR", help="The store to write into.")
@click.option("--no-verify", is_flag=True, help="Skip the comparison with the official model.")
@parity_options
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option("--source-root", metavar="URL_OR_DIR", help="A mirror of the released archives.")
@click.option("--offline", is_flag=True, help="Use only releases that were fetched before.")
@json_option
@click.option("--debug", is_flag=True, help="Show where an error arose.")
@click.version_option(__version__, prog_name="movinet-convert")
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """Turn Google's TensorFlow MoViNet checkpoints into verified PyTorch weights.

    Without a command: take a checkpoint (the release, unless told otherwise), convert it, compare
    it with the official model and write it into a store.
    """
    if context.invoked_subcommand is not None:
        return
    if options["arch"] is None and not options["checkpoint"]:
        if any(_is_given(context, option) for option in options):
            raise click.UsageError("Missing option '--arch': one of " + ", ".join(ARCHS) + ".")
        echo_page(context.get_help())
        return
    with reported(options["as_json"]):
        _main_job(**options)


def _is_given(context: click.Context, option: str) -> bool:
    return context.get_parameter_source(option) is ParameterSource.COMMANDLINE


def _main_job(*, arch: str | None, causal: bool, as_json: bool, **options: Any) -> None:
    from movinet_convert.cli.render import conversion_json, print_conversion
    from movinet_convert.conversion.pipeline import convert
    from movinet_convert.model.settings import get_variant

    if arch is None and causal:
        raise UsageError("--causal confirms a variant together with --arch; give both or neither.")
    variant = get_variant(f"{arch}-{'stream' if causal else 'base'}") if arch else None
    _check_gating(variant, options["gating"], options["gating_clips"])
    parity = None if options["no_verify"] else to_parity(options)
    with _source(variant, options) as source, doing(f"Converting {source.name}"):
        conversion = convert(
            variant.name if variant else None,
            source,
            gating=options["gating"],
            gating_clips=_clip_reader(options["gating_clips"]),
            legacy=options["legacy"],
            head_activation=options["head_activation"],
            num_classes=options["num_classes"],
            out=options["out"],
            dtype=options["dtype"],
            parity=parity,
        )
    if as_json:
        echo_json(conversion_json(conversion))
    else:
        print_conversion(conversion)


def _clip_reader(folder: str | None) -> Callable[[Variant], Tensor] | None:
    if folder is None:
        return None
    from movinet_convert.video.gating_clips import read_clips  # needs the extra [video]

    return partial(read_clips, Path(folder))


def _check_gating(variant: Variant | None, gating: Any, clips: str | None) -> None:
    """Refuse what contradicts itself before anything is downloaded or made."""
    if (gating == AUTO) != (clips is not None):
        raise UsageError(
            "--gating auto and --gating-clips DIR belong together: the gate is told with videos "
            "such as the network was trained on; give both or neither."
        )
    if variant and gating:
        from movinet_convert.model.settings import released_settings  # needs torch

        released_settings(variant, "keras" if gating == AUTO else gating)


@contextmanager
def _source(variant: Variant | None, options: dict[str, Any]) -> Iterator[Source]:
    from movinet_convert.conversion import sources

    if options["checkpoint"] and options["synthetic"]:
        raise UsageError("--checkpoint and --synthetic both name a source; choose one.")
    if options["checkpoint"] or variant is None:
        yield sources.given(options["checkpoint"])
    elif options["synthetic"]:
        made = sources.synthetic(variant, options["seed"])
        with doing("Making a synthetic checkpoint with the official model"):
            source = made.__enter__()
        try:
            yield source
        finally:
            made.__exit__(None, None, None)
    else:
        yield fetch.fetched(variant, options)


for command in (
    verify.verify_command,
    list_module.list_command,
    fetch.fetch_command,
    inspect.inspect_command,
    export.export_command,
    predict.predict_command,
    evaluate.evaluate_command,
    report.report_command,
):
    command.params.append(debug_option())
    main.add_command(command)
