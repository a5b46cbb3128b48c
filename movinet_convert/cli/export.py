"""``movinet-convert export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.cli import options
from movinet_convert.cli.command import Command
from movinet_convert.cli.native_logs import native_logs_hidden
from movinet_convert.cli.terminal import doing, echo, echo_json
from movinet_convert.cli.threads import follow_load
from movinet_convert.errors import UsageError

if TYPE_CHECKING:
    from movinet_convert.model import MoViNet

CHECKPOINT = "tf-checkpoint"
RUNTIME_FORMATS = [
    "torch-export",
    "aot-inductor",
    "onnx",
    "openvino",
    "executorch",
    "litert",
    "transformers",
    "tflite",
    "saved-model",
]


@click.command(
    "export", cls=Command, short_help="Write a converted network for other runtimes or TensorFlow."
)
@options.name
@click.option(
    "--format",
    "format_",
    type=click.Choice([*RUNTIME_FORMATS, CHECKPOINT]),
    required=True,
    help="The last three are TensorFlow's.",
)
@click.option("--out", metavar="P", required=True, help="The file, or the folder, to write.")
@click.option(
    "--size", type=options.height_width, metavar="HxW", help="The variant's own unless given."
)
@click.option(
    "--frames", type=click.IntRange(min=1), help="Per call; 1 for stream variants unless given."
)
@click.option("--batch", type=click.IntRange(min=1), help="Videos per call; 1 unless given.")
@click.option(
    "--dtype", type=click.Choice(options.DTYPES), help="Of the weights; float32 unless given."
)
@click.option(
    "--quantize",
    type=click.Choice(["dynamic", "weights", "int8"]),
    help="8-bit weights: of linear layers only, of all layers, or of all with calibrated 8-bit "
    "activations.",
)
@click.option(
    "--calibration",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="Videos for --quantize int8, like those the network will be used on.",
)
@click.option(
    "--allow-loss",
    metavar="X",
    type=click.FloatRange(min=0, min_open=True),
    help="Accept a mean error of the logits up to X standard deviations, instead of the limit for "
    "this precision.",
)
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the error that each layer has in int8 as CSV.",
)
@options.labels
@options.weights_dir
@options.as_json
def export_command(
    name: str, format_: str, out: str, weights_dir: str | None, as_json: bool, **settings: Any
) -> None:
    """Write a converted network for another runtime, or back to TensorFlow.

    Files for other runtimes are run in them and compared before they are moved into place.

    \b
    Example: movinet-convert export a0-stream --format onnx --out a0-stream.onnx
    """
    from movinet_convert.conversion.loading import load_converted
    from movinet_convert.files.writing import refuse_inputs
    from movinet_convert.weights.labels import unnamed
    from movinet_convert.weights.load import find_file

    weights, labels = find_file(name, weights_dir=weights_dir), settings["labels"]
    refuse_inputs(Path(out), [weights] if labels is None else [weights, labels])
    follow_load()
    model = load_converted(weights)
    with native_logs_hidden(), doing(f"Exporting {name} as {format_}"):
        if format_ == CHECKPOINT:
            result = _checkpoint(model, Path(out), settings)
        else:
            result = _for_runtime(model, out, format_, **settings)
    if format_ != CHECKPOINT and labels is None and model.labels is None:
        echo(f"Note: {unnamed(name, model.num_classes)}", err=True)
    if as_json:
        echo_json(result)
    else:
        echo(*_sentences(result))


def _for_runtime(
    model: MoViNet,
    out: str,
    format_: str,
    *,
    calibration: str | None,
    **settings: Any,
) -> dict[str, Any]:
    from movinet_convert.export import export_model
    from movinet_convert.export.quantization.calibration import calibration_clips

    if (settings["quantize"] == "int8") != (calibration is not None):
        raise UsageError(
            "--quantize int8 and --calibration DIR require each other; pass both or neither."
        )
    settings["batch"] = settings["batch"] or 1
    clips = calibration_clips(calibration, model.variant, settings["size"]) if calibration else ()
    report = export_model(model, out, format_, calibration=clips, **settings)
    return report.as_json()


def _checkpoint(model: MoViNet, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    from movinet_convert.export.tensorflow import export_checkpoint

    for option, value in settings.items():
        if value is not None:
            raise UsageError(
                f"--{option.replace('_', '-')} is not for --format {CHECKPOINT}; leave it out."
            )
    return {"path": str(export_checkpoint(model, out)), "format": CHECKPOINT}


def _sentences(result: dict[str, Any]) -> list[str]:
    if "deviation" not in result:
        return [f"Wrote {result['path']} ({result['format']})"]
    kind = [result["format"], result["dtype"]]
    if result["quantize"] is not None:
        kind.append(f"{result['quantize']} quantization")
    kind.append(f"{result['bytes'] / 1e6:.1f} MB")
    wrote = f"Wrote {' and '.join(result['files'])} ({', '.join(kind)})"
    frames = f"in its own runtime over {result['frames_checked']} frames"
    if result["dtype"] == "float32" and result["quantize"] is None:
        return [
            wrote,
            f"Agreement, {frames}: logits differ from the eager network's by at most "
            f"{result['deviation']:.1e} of their standard deviation; the top class is the same in "
            f"{result['agreement']:.0%}",
        ]
    return [
        wrote,
        f"Loss, {frames} of {result['clips_checked']} clips: logits differ from the eager "
        f"network's by {result['mean_error']:.1e} of their standard deviation on average and "
        f"{result['deviation']:.1e} at most, correlation {result['correlation']:.5f}; the top "
        f"class is the same in {result['agreement']:.1%}",
    ]
