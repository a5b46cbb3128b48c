"""Fine-tune a MoViNet on a folder of videos, one folder for each class.

    python -m examples.finetune --shapes --model a0-stream --random --out runs/shapes
    python -m examples.finetune videos/ --model a2-stream --out runs/mine --epochs 20
    torchrun --nproc-per-node 4 -m examples.finetune videos/ --model a2-base --out runs/mine

Whole clips by default; --chunk N feeds a stream model N frames at a time, with its state. A killed
run continues with --resume. OUT contains model.safetensors (load_converted reads it), the best
weights, the last checkpoint, metrics.csv and, if TensorBoard is installed, its log.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn

from examples.finetune.checkpoint import EpochMetrics
from examples.finetune.data import ClipSpec, read_split
from examples.finetune.shapes import write_shapes
from examples.finetune.step import StepConfig
from examples.finetune.train import TrainConfig, Trainer
from movinet_convert import create_model, freeze_backbone, load_converted, save_weights
from movinet_convert.errors import MovinetError, UsageError
from movinet_convert.model import MoViNet
from movinet_convert.video.processes import Group, group

MODEL_NAME = "model.safetensors"
LEARNING_RATE, QAT_LEARNING_RATE = 1e-3, 1e-4
MAX_NAMED = 10  # unreadable videos
FORMATS = ("tf-checkpoint", "saved-model", "tflite")
# The clips are small and short, so that training takes minutes on a CPU.
SHAPES_CLIP = ClipSpec(frames=6, size=48, fps=10.0)


@click.command(context_settings={"show_default": True}, help=__doc__.splitlines()[0])
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--shapes", is_flag=True, help="Write a data set of moving shapes and train on it.")
@click.option("--shapes-count", default=60, help="Videos of each shape.")
@click.option("--model", "name", default="a0-stream", help="Variant in the store, or a file.")
@click.option("--random", is_flag=True, help="Start from random weights of the variant.")
@click.option("--gating", help="Of a stream model with random weights: keras or model-garden.")
@click.option("--weights-dir", help="The store.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Continue the run in OUT, if there is one.")
@click.option("--epochs", default=10)
@click.option("--batch", default=8, help="Videos per step and process.")
@click.option("--frames", type=int, help="Frames per clip; by default as the variant was trained.")
@click.option("--fps", type=float, help="Frames per second; by default as the variant was trained.")
@click.option("--size", type=int, help="Pixels; by default as the variant was trained.")
@click.option("--chunk", type=int, help="Frames that a stream model reads per call.")
@click.option("--piece", type=int, hidden=True, help="The earlier name of --chunk.")
@click.option("--through-time", is_flag=True, help="Let gradients flow from chunk to chunk.")
@click.option("--lr", type=float, help="Peak learning rate: 1e-3, with --qat 1e-4, unless given.")
@click.option("--warmup", default=20, help="Steps until the peak learning rate.")
@click.option("--weight-decay", default=1e-4)
@click.option("--label-smoothing", default=0.0)
@click.option("--dropout", type=float, help="Instead of the variant's, or of 0 with --qat.")
@click.option(
    "--stochastic-depth", type=float, help="Instead of the authors' 0.2, or of 0 with --qat."
)
@click.option("--freeze", is_flag=True, help="Train only the classifier.")
@click.option("--qat", is_flag=True, help="Quantization-aware, for int8: trains a trained network.")
@click.option("--half", is_flag=True, help="Compute in bfloat16 where that is safe (autocast).")
@click.option("--held-out", default=0.2, help="Fraction of the videos to evaluate on.")
@click.option("--workers", default=2, help="Processes that decode videos.")
@click.option("--save-every", default=50, help="Steps between checkpoints.")
@click.option("--seed", default=0)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--export", "formats", multiple=True, type=click.Choice(FORMATS), help="At the end.")
def main(**options: Any) -> None:
    try:
        with group() as processes:
            finetune(processes, **options)
    except MovinetError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def finetune(processes: Group, data: Path | None, out: Path, **options: Any) -> None:
    if options["shapes"]:
        if data is not None:
            raise UsageError("--shapes creates its own data; omit the folder.")
        data = out / "shapes"
        if processes.rank == 0 and not data.exists():
            write_shapes(data, options["shapes_count"], seed=options["seed"])
        processes.wait()
    if data is None:
        raise UsageError("Name a folder of videos, with one folder per class, or use --shapes.")
    split = read_split(data, options["held_out"])
    model = make_model(len(split.classes), **options)
    config = make_config(model, **options)
    trainer = Trainer(model, split, config, out, processes)
    with ProgressBar(config.epochs, quiet=processes.rank != 0) as bar:
        history = trainer.train(bar, resume=options["resume"])
    if processes.rank == 0:
        print_unreadable(trainer.unreadable)
        path = save_weights(model.cpu().eval(), out / MODEL_NAME, labels=split.classes)
        accuracy = history[-1].held_out_accuracy
        print(f"{path}: accuracy {accuracy:.1%} on {len(split.held_out)} held-out videos")
        for name in options["formats"]:
            print(export(model, out, name, config.clip.size, split.classes))


def make_model(classes: int, name: str, **options: Any) -> MoViNet:
    if options["random"] and options["qat"]:
        raise UsageError("--qat needs a trained network, which it keeps close to; omit --random.")
    if options["random"]:
        torch.manual_seed(options["seed"])
        model = create_model(name, num_classes=classes, gating=options["gating"])
    else:
        model = load_converted(
            name,
            weights_dir=options["weights_dir"],
            num_classes=None if options["qat"] else classes,
        )
        if model.num_classes != classes:
            raise UsageError(
                f"{name} has {model.num_classes} classes, the videos {classes}; --qat needs a "
                "network trained on them: fine-tune without it first."
            )
    if options["qat"]:  # the logits are compared with those of the network as it was
        model.classifier.dropout = 0.0
        model.set_stochastic_depth(0.0)
    if options["dropout"] is not None:
        model.classifier.dropout = options["dropout"]
    if options["stochastic_depth"] is not None:
        model.set_stochastic_depth(options["stochastic_depth"])
    if options["freeze"]:
        freeze_backbone(model)
    return model.to(torch.device(options["device"]))


def make_config(model: MoViNet, **options: Any) -> TrainConfig:
    default = SHAPES_CLIP if options["shapes"] else model.variant.input
    clip = ClipSpec(
        frames=options["frames"] or default.frames,
        size=options["size"] or default.size,
        fps=options["fps"] or default.fps,
    )
    step = StepConfig(
        chunk=options["chunk"] or options["piece"],
        through_time=options["through_time"],
        half=options["half"],
        label_smoothing=options["label_smoothing"],
    )
    names = ("epochs", "batch", "warmup", "weight_decay", "seed", "workers", "save_every", "qat")
    settings = {name: options[name] for name in names}
    rate = options["lr"]
    if rate is None:
        rate = QAT_LEARNING_RATE if options["qat"] else LEARNING_RATE
    return TrainConfig(clip=clip, step=step, learning_rate=rate, **settings)


class ProgressBar:
    """A progress bar on a terminal, and a line per epoch; nothing if ``quiet``."""

    def __init__(self, epochs: int, quiet: bool) -> None:
        self._epochs, self._quiet = epochs, quiet
        self._bar = Progress(
            *Progress.get_default_columns(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            console=Console(stderr=True),
            disable=quiet or not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task("", loss=0.0, visible=False)

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        self._bar.update(
            self._task,
            description=f"epoch {epoch + 1}",
            completed=batch,
            total=batches,
            loss=loss,
            visible=True,
        )

    def epoch(self, metrics: EpochMetrics) -> None:
        self._bar.reset(self._task, visible=False, loss=0.0)
        if not self._quiet:
            print(
                f"epoch {metrics.epoch:3}/{self._epochs}  loss {metrics.training_loss:.3f}  "
                f"held out: loss {metrics.held_out_loss:.3f}, "
                f"accuracy {metrics.held_out_accuracy:.1%}  ({metrics.seconds:.0f} s)",
                flush=True,
            )


def print_unreadable(unreadable: dict[str, str]) -> None:
    if unreadable:
        print(f"{len(unreadable)} videos could not be read and were skipped:", file=sys.stderr)
    for reason in list(unreadable.values())[:MAX_NAMED]:
        print(f"  {reason}", file=sys.stderr)
    if len(unreadable) > MAX_NAMED:
        print(f"  and {len(unreadable) - MAX_NAMED} more", file=sys.stderr)


def export(model: MoViNet, out: Path, name: str, size: int, labels: Sequence[str]) -> Path:
    if name == "tf-checkpoint":
        from movinet_convert.export.tensorflow import export_checkpoint

        return export_checkpoint(model, out / model.variant.release_folder)
    from movinet_convert.export import export_model

    path = out / ("saved_model" if name == "saved-model" else f"model.{name}")
    return export_model(model, path, name, size=(size, size), labels=labels).path


if __name__ == "__main__":
    main()
