"""Fine-tune a MoViNet on a folder of videos, one folder for each class.

    python -m examples.finetune --shapes --model a0-stream --random --out runs/shapes
    python -m examples.finetune videos/ --model a2-stream --out runs/mine --epochs 20
    torchrun --nproc-per-node 4 -m examples.finetune videos/ --model a2-base --out runs/mine

Whole clips by default; --piece N feeds a stream model N frames at a time, with its state. A run
that was killed goes on with --resume. OUT gets model.safetensors (load_converted reads it), the
best and the last checkpoint, metrics.csv and, if TensorBoard is installed, its log.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn

from examples.finetune.data import ClipFormat, read_split
from examples.finetune.learner import Recipe
from examples.finetune.run import Plan, Run
from examples.finetune.shapes import write_shapes
from movinet_convert import create_model, freeze_backbone, load_converted, save_weights
from movinet_convert.errors import MovinetError, UsageError
from movinet_convert.video.processes import Group, group

if TYPE_CHECKING:
    from examples.finetune.journal import EpochMetrics
    from movinet_convert.model import MoViNet

MODEL_NAME = "model.safetensors"
SHAPES_FOLDER = "shapes"
NAMED = 10  # unreadable videos
FORMATS = ("tf-checkpoint", "saved-model", "tflite")


class Screen:
    """Prints a line an epoch, and a bar on a terminal."""

    def __init__(self, epochs: int, quiet: bool) -> None:
        self._quiet = quiet
        self._bar = Progress(
            *Progress.get_default_columns(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            console=Console(stderr=True),
            disable=quiet or not sys.stderr.isatty(),
            transient=True,
        )
        self._epochs = epochs
        self._task: TaskID | None = None

    def __enter__(self) -> Screen:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        if self._task is None:
            self._task = self._bar.add_task(f"epoch {epoch + 1}", total=batches, loss=loss)
        self._bar.update(self._task, completed=batch, total=batches, loss=loss)

    def epoch(self, metrics: EpochMetrics) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        if not self._quiet:
            print(
                f"epoch {metrics.epoch:3}/{self._epochs}  loss {metrics.training_loss:.3f}  held "
                f"out: loss {metrics.held_out_loss:.3f}, {metrics.held_out_accuracy:.1%} right  "
                f"({metrics.seconds:.0f} s)",
                flush=True,
            )


@click.command(context_settings={"show_default": True}, help=__doc__.splitlines()[0])
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--shapes", is_flag=True, help="Write a data set of moving shapes and learn that.")
@click.option("--shapes-count", default=60, help="Videos of each shape.")
@click.option("--model", "name", default="a0-stream", help="Variant in the store, or a file.")
@click.option("--random", is_flag=True, help="Begin with random weights of the variant.")
@click.option("--gating", help="Of random weights of a stream model: keras or model-garden.")
@click.option("--weights-dir", help="The store.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on with the run in OUT, if there is one.")
@click.option("--epochs", default=10)
@click.option("--batch", default=8, help="Videos a step, of each process.")
@click.option("--frames", type=int, help="Frames a clip; by default as the variant was trained.")
@click.option("--fps", type=float, help="Frames a second; by default as the variant was trained.")
@click.option("--size", type=int, help="Pixels; by default as the variant was trained.")
@click.option("--piece", type=int, help="Feed a stream model this many frames at a time.")
@click.option("--through-time", is_flag=True, help="Gradients flow from piece to piece.")
@click.option("--lr", default=1e-3, help="Largest learning rate.")
@click.option("--warmup", default=20, help="Steps until the largest learning rate.")
@click.option("--weight-decay", default=1e-4)
@click.option("--label-smoothing", default=0.0)
@click.option("--dropout", type=float, help="Instead of the variant's.")
@click.option("--stochastic-depth", type=float, help="Instead of the authors' 0.2.")
@click.option("--freeze", is_flag=True, help="Train the classifier alone.")
@click.option("--half", is_flag=True, help="Compute in bfloat16 where that is safe (autocast).")
@click.option("--held-out", default=0.2, help="Part of the videos to judge by.")
@click.option("--workers", default=2, help="Processes that decode videos.")
@click.option("--save-every", default=50, help="Steps from checkpoint to checkpoint.")
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
            raise UsageError("--shapes makes its own data; leave the folder out.")
        data = out / SHAPES_FOLDER
        if processes.rank == 0 and not data.exists():
            write_shapes(data, options["shapes_count"], seed=options["seed"])
        processes.wait()
    if data is None:
        raise UsageError("Name a folder of videos, one folder for each class, or use --shapes.")
    split = read_split(data, options["held_out"])
    model = make_model(len(split.classes), **options)
    model.to(torch.device(options["device"]))
    plan = make_plan(model, shapes=options["shapes"], options=options)
    run = Run(model, split, plan, out, processes)
    chief = processes.rank == 0
    with Screen(plan.epochs, quiet=not chief) as console:
        history = run.train(console, resume=options["resume"])
    if chief:
        say_unreadable(run.unreadable)
        path = save_weights(model.cpu().eval(), out / MODEL_NAME, labels=split.classes)
        print(f"{path}: {history[-1].held_out_accuracy:.1%} of {len(split.held_out)} held out")
        for name in options["formats"]:
            print(export(model, out, name, plan.clip.size))


def say_unreadable(unreadable: dict[str, str]) -> None:
    if unreadable:
        print(f"{len(unreadable)} videos could not be read and were left out:", file=sys.stderr)
    for reason in list(unreadable.values())[:NAMED]:
        print(f"  {reason}", file=sys.stderr)
    if len(unreadable) > NAMED:
        print(f"  and {len(unreadable) - NAMED} more", file=sys.stderr)


def make_model(classes: int, **options: Any) -> MoViNet:
    name = options["name"]
    if options["random"]:
        torch.manual_seed(options["seed"])
        model = create_model(name, num_classes=classes, gating=options["gating"])
    else:
        model = load_converted(name, weights_dir=options["weights_dir"], num_classes=classes)
    if options["dropout"] is not None:
        model.classifier.dropout = options["dropout"]
    if options["stochastic_depth"] is not None:
        model.set_stochastic_depth(options["stochastic_depth"])
    return freeze_backbone(model) if options["freeze"] else model


def make_plan(model: MoViNet, *, shapes: bool, options: dict[str, Any]) -> Plan:
    expected = model.variant.input
    # The shapes are small and short, so that a processor learns them in minutes.
    frames, size, fps = (6, 48, 10.0) if shapes else (expected.frames, expected.size, expected.fps)
    clip = ClipFormat(
        frames=options["frames"] or frames,
        size=options["size"] or size,
        fps=options["fps"] or fps,
    )
    recipe = Recipe(
        options["piece"], options["through_time"], options["half"], options["label_smoothing"]
    )
    names = ("epochs", "batch", "warmup", "weight_decay", "seed", "workers", "save_every")
    return Plan(
        clip=clip,
        recipe=recipe,
        learning_rate=options["lr"],
        **{name: options[name] for name in names},
    )


def export(model: MoViNet, out: Path, name: str, size: int) -> Path:
    if name == "tf-checkpoint":
        from movinet_convert.export.tf_checkpoint import export_checkpoint

        return export_checkpoint(model, out / model.variant.release_folder)
    from movinet_convert.export.tf_model import export_saved_model, export_tflite

    if name == "saved-model":
        return export_saved_model(model, out / "saved_model")
    return export_tflite(model, out / "model.tflite", height=size, width=size)


if __name__ == "__main__":
    main()
