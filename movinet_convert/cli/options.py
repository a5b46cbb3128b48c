"""The options that commands share, used as ``@options.weights_dir``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from movinet_convert.cli import completion
from movinet_convert.cli.native_logs import native_logs_hidden
from movinet_convert.cli.threads import runtime_threads
from movinet_convert.errors import UsageError

if TYPE_CHECKING:  # which needs torch
    from movinet_convert.export import ExportedModel
    from movinet_convert.parity.options import ParityOptions

DTYPES = ("float32", "float16", "bfloat16")


def height_width(text: str) -> tuple[int, int]:
    """``HxW`` in pixels, such as 172x172."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise click.BadParameter(f"{text!r} is not height x width in pixels, such as 172x172.")
    return int(sides[0]), int(sides[1])


def positive(text: str) -> float:
    """A finite number above 0; click's FloatRange accepts nan and inf."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise click.BadParameter(f"{text!r} is not a finite number above 0.")
    return number


Command = TypeVar("Command", bound=Callable[..., Any])


def at_version(name: str, version: int | None) -> str:
    """``NAME@N``; UsageError for a version of what can have none, or for two versions."""
    from movinet_convert.weights.naming import split_version

    if version is None:
        return name
    named = split_version(name, version)
    if named is None:
        raise UsageError(f"--version is for a name in the store, not for {name}; leave it out.")
    return f"{named[0]}@{version}"


def _with_version(
    metavar: str, complete: Callable[..., Any], default: str = "; by default the one converted last"
) -> Callable[[Command], Command]:
    """An argument ``name`` with ``--version N``, which the command gets as ``NAME@N``."""
    option = click.option(
        "--version",
        type=click.IntRange(min=1),
        help=f"Version of NAME in the store, as in NAME@1{default}.",
    )

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(*args: Any, name: str, version: int | None, **settings: Any) -> Any:
            return command(*args, name=at_version(name, version), **settings)

        argument = click.argument("name", metavar=metavar, shell_complete=complete)
        return cast("Command", argument(option(call)))

    return decorate


name = _with_version("NAME|FILE", completion.stored_or_file)
path = _with_version("PATH", completion.stored_or_file)
stored_name = _with_version("NAME", completion.stored, default="")


def store(*names: str) -> Callable[[Command], Command]:
    """The option for the store, ``weights_dir``; ``names`` are other names of the option."""
    return click.option(
        "--weights-dir",
        *names,
        "weights_dir",
        metavar="DIR",
        shell_complete=completion.folders,
        help="The store; by default $MOVINET_WEIGHTS_DIR or the per-user data folder.",
    )


weights_dir = store()
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
)


def _one_source(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> str | None:
    if len(set(given)) > 1:
        raise click.BadParameter("it was given twice, with different values; give only one.")
    return given[0] if given else None


source = click.option(
    "--source",
    "--source-root",
    "source",
    metavar="auto|model-garden|kaggle|URL|DIR",
    multiple=True,
    callback=_one_source,
    help="Where the release comes from: one of Google's two official sources, or a mirror of the "
    "Model Garden's archives; auto, the default, tries Model Garden, then Kaggle. Also "
    "$MOVINET_SOURCE.",
)
labels = click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Class names, one per line, in the order of the logits.",
)
device = click.option("--device", help="Where the network runs, such as cuda.")

trusted = click.option(
    "--trusted",
    is_flag=True,
    help="Run FILE, with your privileges, even if it is code, as aot-inductor and saved-model are.",
)


def exported(
    name: str, device: str | None, threads: int, trusted: bool, weights_dir: str | None
) -> ExportedModel | None:
    """The file ``name`` in its own runtime if ``export`` wrote it, else None."""
    from movinet_convert.export.exported import is_exported, load_exported
    from movinet_convert.weights.hub_files import is_hub_address

    if is_hub_address(name) or not is_exported(name):
        return None
    for option, value in (("--device", device), ("--weights-dir", weights_dir)):
        if value is not None:
            raise UsageError(f"{option} is for converted weights, not for {name}; leave it out.")
    with native_logs_hidden():
        return load_exported(name, threads or runtime_threads(), trusted=trusted)


def _set_threads(context: click.Context, __: click.Parameter, threads: int | None) -> int:
    """Limit PyTorch's threads; returns FFmpeg's, 0 to let it choose."""
    if threads is not None and not context.resilient_parsing:
        import torch

        torch.set_num_threads(threads)
    return threads or 0


threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    callback=_set_threads,
    help="For the network and for decoding; by default PyTorch uses the cores that are free.",
)

# The numbers in these texts are those of parity.options, which imports torch; a test compares them.
PARITY_OPTIONS = (
    click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the random clips."),
    click.option("--clips", type=click.IntRange(min=1), default=1, help="Random clips per case."),
    click.option("--frames", type=int, help="Frames per clip, at least 3; skips the long case."),
    click.option(
        "--size",
        type=height_width,
        metavar="HxW",
        help="Height and width of a clip, at least 32x32; skips the case at the variant's own "
        "size.",
    ),
    click.option(
        "--tolerance",
        type=float,
        help="Largest difference that passes, relative to the standard deviation of the reference "
        "tensor: 0.0001 for float32, at most 0.01.",
    ),
)


def parity(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a comparison with the official model; see ``parity_settings``."""
    for option in reversed(PARITY_OPTIONS):
        command = option(command)
    return command


def parity_settings(values: Mapping[str, Any]) -> ParityOptions:
    """The values of ``parity`` as ParityOptions; UsageError where they would prove nothing."""
    from movinet_convert.parity.options import ParityOptions

    names = ("seed", "clips", "frames", "size", "tolerance")
    settings = ParityOptions(**{name: values[name] for name in names})
    if "dtype" in values:
        settings.tolerance_for(values["dtype"])  # refuses it before any work
    return settings
