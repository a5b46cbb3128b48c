"""The options of the command line, which a configuration file may give too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch

from examples.finetune.data import CROPS
from examples.finetune.optimizer import OPTIMIZERS
from examples.finetune.splits import FOLDS, LAYOUTS
from movinet_convert.errors import MovinetError, UsageError
from movinet_convert.files.reading import read_text
from movinet_convert.weights.strict_yaml import MAX_BYTES, StrictYamlError, line_of, load

FORMATS = ("tf-checkpoint", "saved-model", "tflite")
PATH = click.Path(path_type=Path)
RANGE = {"nargs": 2, "type": float}


def read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take the defaults of the command's options from a YAML file.

    Its keys are the names of the options without the dashes in front, and ``data``. Raises click's
    UsageError, with the line, for what is not YAML and for an unknown key.
    """
    if path is not None:
        try:
            context.default_map = _read(path, _names(context.command))
        except MovinetError as error:
            raise click.UsageError(str(error), context) from None


def _read(path: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """The values in the file, by the names of the parameters."""
    try:
        content, node = load(read_text(path, MAX_BYTES))
    except StrictYamlError as error:
        raise UsageError(f"{path}, line {error.line}: {error.problem}.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected one option per line, as in 'epochs: 20'.")
    values = {}
    for key, value in content.items():
        name = names.get(str(key).replace("_", "-").lower())
        if name is None:
            known = ", ".join(sorted(names))
            raise UsageError(
                f"{path}, line {line_of(node, [key])}: there is no option {key!r}; expected one "
                f"of {known}."
            )
        values[name] = value
    return values


def _names(command: click.Command) -> dict[str, str]:
    """The parameters by their names in a configuration file."""
    names = {}
    for parameter in command.params:
        option = max(parameter.opts, key=len).removeprefix("--")
        if option not in ("config", "help") and parameter.name:
            names[option] = parameter.name
    return names


OPTIONS = [
    click.argument("data", required=False, type=PATH),
    click.option(
        "--config", type=PATH, is_eager=True, expose_value=False, callback=read_config,
        help="YAML file with options; those given here override it.",
    ),
    # What to train on.
    click.option("--layout", type=click.Choice(LAYOUTS), default="folder", help="Of the videos."),
    click.option("--lists", type=PATH, help="Folder of the split files, unless in folders."),
    click.option("--fold", type=click.Choice([str(n) for n in FOLDS]), default="1"),
    click.option("--held-out", default=0.2, help="Fraction of the videos to evaluate on."),
    click.option("--shapes", is_flag=True, help="Write videos of moving shapes and use them."),
    click.option("--shapes-count", default=60, help="Videos of each shape."),
    # The network.
    click.option("--model", "name", default="a0-stream", help="Variant in the store, or a file."),
    click.option("--random", is_flag=True, help="Start from random weights of the variant."),
    click.option("--gating", help="Of a stream model with random weights: keras, model-garden."),
    click.option("--weights-dir", help="The store."),
    click.option("--dropout", type=float, help="Instead of the variant's, or of 0 with --qat."),
    click.option("--stochastic-depth", type=float, help="Instead of 0.2, or of 0 with --qat."),
    click.option("--freeze", is_flag=True, help="Train only the classifier."),
    # The run.
    click.option("--out", required=True, type=PATH, help="Folder of the run."),
    click.option("--resume", is_flag=True, help="Continue the run in OUT, if there is one."),
    click.option("--epochs", default=10),
    click.option("--batch", default=8, help="Videos per step and process."),
    click.option("--seed", default=0),
    click.option("--workers", default=2, help="Processes that decode videos."),
    click.option("--save-every", default=50, help="Steps between checkpoints."),
    click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu"),
    click.option("--export", "formats", multiple=True, type=click.Choice(FORMATS)),
    # Clips; by default as the variant was trained.
    click.option("--frames", type=int, help="Frames per clip."),
    click.option("--fps", type=float, help="Frames per second."),
    click.option("--size", type=int, help="Pixels of a clip, which is square."),
    click.option("--resize", type=int, help="Pixels of the shorter side of a frame before a crop."),
    click.option("--chunk", type=int, help="Frames that a stream model reads per call."),
    click.option("--piece", type=int, hidden=True, help="The earlier name of --chunk."),
    click.option("--through-time", is_flag=True, help="Gradients flow from chunk to chunk."),
    # Augmentation and sampling.
    click.option(
        "--crop", type=click.Choice(["resized", "plain"]), default="resized",
        help="A random part of the frame, resized; or a random square of --size.",
    ),
    click.option("--area", **RANGE, default=(0.08, 1.0), help="Of a resized crop, of the frame's."),
    click.option("--aspect", **RANGE, default=(0.5, 2.0), help="Width over height of that crop."),
    click.option("--flip", default=0.5, help="Probability of a flip left to right."),
    click.option("--balance", default=0.0, help="From 0, all videos as often, to 1, all classes."),
    # Optimization.
    click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="adamw"),
    click.option(
        "--lr", type=float,
        help="Peak learning rate: 1e-3 of adamw, 1e-4 with --qat; of the others the official one "
        "for 1024 videos per step, in proportion: 1.8 of rmsprop, 1.6 of sgd.",
    ),
    click.option("--warmup", default=20, help="Steps until the peak learning rate."),
    click.option("--weight-decay", default=1e-4, help="Of kernels only."),
    click.option("--clip-norm", type=float, help="Largest norm of all gradients together."),
    click.option("--clip-tensor-norm", type=float, help="Largest norm of each tensor's gradient."),
    click.option("--label-smoothing", default=0.0),
    click.option("--ema", type=float, help="Decay of a moving average of the weights, as 0.99."),
    click.option("--sync-bn/--no-sync-bn", default=True, help="Statistics of all processes."),
    click.option("--half", is_flag=True, help="Autocast to bfloat16 where that is safe."),
    click.option("--qat", is_flag=True, help="Quantization-aware, for int8: of a trained network."),
    # Evaluation.
    click.option("--eval-clips", default=1, help="Clips of a held-out video."),
    click.option("--eval-crops", type=click.Choice([str(n) for n in CROPS]), default="1"),
]  # fmt: skip


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(OPTIONS):
        function = option(function)
    return function
