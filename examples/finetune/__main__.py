"""Train a MoViNet on labelled videos: a folder for each class, or official split files.

    python -m examples.finetune --shapes --model a0-stream --random --out runs/shapes
    python -m examples.finetune videos/ --model a2-stream --out runs/mine --epochs 20
    python -m examples.finetune --config examples/finetune/configs/ucf101.yaml --out runs/ucf101
    torchrun --nproc-per-node 4 -m examples.finetune videos/ --model a2-base --out runs/mine

Whole clips by default; --chunk N feeds a stream model N frames at a time, with its state. A killed
run continues with --resume. OUT contains model.safetensors (load_converted reads it), the best
weights, the last checkpoint, metrics.csv, the accuracy of every class with a confusion matrix and,
if TensorBoard is installed, its log.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from examples.finetune.augmentation import Augmentation
from examples.finetune.data import ClipSpec
from examples.finetune.display import ProgressBar, print_unreadable
from examples.finetune.evaluation import EvaluationConfig
from examples.finetune.optimizer import OptimizerConfig
from examples.finetune.options import with_options
from examples.finetune.shapes import write_shapes
from examples.finetune.splits import Split, read_lists, read_split
from examples.finetune.step import StepConfig
from examples.finetune.train import TrainConfig, Trainer
from movinet_convert import create_model, freeze_backbone, load_converted
from movinet_convert.errors import MovinetError, UsageError
from movinet_convert.model import MoViNet
from movinet_convert.model.transforms import ClipTransform
from movinet_convert.video.processes import Group, group

MODEL_NAME = "model.safetensors"
LEARNING_RATE, QAT_LEARNING_RATE = 1e-3, 1e-4
# For 1024 videos per step; official/vision/configs/video_classification.py has that of SGD.
OFFICIAL_LEARNING_RATES = {"rmsprop": 1.8, "sgd": 1.6}
OFFICIAL_BATCH = 1024
# The clips are small and short, so that training takes minutes on a CPU.
SHAPES_CLIP = ClipSpec(frames=6, size=48, fps=10.0)
SIDES = re.compile(r"(?i)(?<![a-z])(left|right|((anti|counter)-?)?clockwise)(?![a-z])")


@click.command(context_settings={"show_default": True}, help=__doc__.splitlines()[0])
@with_options
def main(**options: Any) -> None:
    try:
        with group() as processes:
            finetune(processes, **options)
    except MovinetError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def finetune(processes: Group, out: Path, **options: Any) -> None:
    split = find_videos(processes, out, **options)
    model = make_model(len(split.classes), **options)
    config = make_config(model, processes.size, **options)
    if processes.rank == 0:
        warn_of_flips(split.classes, config.augmentation.flip)
    trainer = Trainer(model, split, config, out, processes)
    with ProgressBar(config.epochs, quiet=processes.rank != 0) as bar:
        trainer.train(bar, resume=options["resume"])
    evaluation = trainer.evaluation or trainer.evaluate()
    if processes.rank == 0:
        print_unreadable(trainer.unreadable)
        path = trainer.save_weights(out / MODEL_NAME)
        title = f"{model.variant.name}, {evaluation.videos} held-out videos"
        files = evaluation.write(out, split.classes, title)
        print(f"{path}, on {evaluation.videos} held-out videos:")
        print("\n".join(evaluation.summary(split.classes)))
        print(f"All classes: {', '.join(str(out / name) for name in files)}")
        with trainer.averaged():
            for name in options["formats"]:
                print(export(model.cpu(), out, name, config.clip.size, split.classes))


def find_videos(
    processes: Group, out: Path, data: Path | None, layout: str, lists: Path | None, **options: Any
) -> Split:
    if options["shapes"]:
        if data is not None or layout != "folder":
            raise UsageError("--shapes creates its own data; omit the folder and --layout.")
        data = out / "shapes"
        if processes.rank == 0 and not data.exists():
            write_shapes(data, options["shapes_count"], seed=options["seed"])
        processes.wait()
    if data is None:
        raise UsageError("Name the folder of the videos, or use --shapes.")
    if layout == "folder":
        if lists is not None:
            raise UsageError(f"--lists {lists} needs --layout, which says what files they are.")
        return read_split(data, options["held_out"])
    if lists is None:
        raise UsageError(f"--layout {layout} needs --lists, the folder of the split files.")
    return read_lists(layout, lists, data, int(options["fold"]))


def warn_of_flips(classes: Sequence[str], flip: float) -> None:
    sided = [name for name in classes if SIDES.search(name)]
    if flip and sided:
        print(
            f"Warning: clips are flipped left to right, and {', '.join(sided[:3])} may then be "
            "another class; use --flip 0.",
            file=sys.stderr,
        )


def make_model(classes: int, name: str, **options: Any) -> MoViNet:
    if options["random"] and options["qat"]:
        raise UsageError("--qat needs a trained network, which it keeps close to; omit --random.")
    torch.manual_seed(options["seed"])  # of random weights, or of a new classifier
    if options["random"]:
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


def make_config(model: MoViNet, processes: int, **options: Any) -> TrainConfig:
    step = StepConfig(
        chunk=options["chunk"] or options["piece"],
        through_time=options["through_time"],
        half=options["half"],
        label_smoothing=options["label_smoothing"],
    )
    area = tuple(options["area"]) if options["crop"] == "resized" else None
    names = ("epochs", "batch", "ema", "balance", "seed", "workers", "save_every", "qat")
    return TrainConfig(
        clip=make_clip(model, **options),
        step=step,
        optimizer=make_optimizer(options["batch"] * processes, **options),
        augmentation=Augmentation(area, tuple(options["aspect"]), options["flip"]),
        evaluation=EvaluationConfig(options["eval_clips"], int(options["eval_crops"])),
        synchronize=options["sync_bn"],
        **{name: options[name] for name in names},
    )


def make_clip(model: MoViNet, **options: Any) -> ClipSpec:
    default = SHAPES_CLIP if options["shapes"] else model.variant.input
    size = options["size"] or default.size
    return ClipSpec(
        frames=options["frames"] or default.frames,
        size=size,
        fps=options["fps"] or default.fps,
        # As much of the frames as in the published evaluation.
        resize=options["resize"] or ClipTransform.of(model.variant, (size, size)).resize,
    )


def make_optimizer(
    videos: int, optimizer: str, lr: float | None, **options: Any
) -> OptimizerConfig:
    """``videos`` are those of a step."""
    if lr is None and optimizer in OFFICIAL_LEARNING_RATES:
        lr = OFFICIAL_LEARNING_RATES[optimizer] * videos / OFFICIAL_BATCH
    elif lr is None:
        lr = QAT_LEARNING_RATE if options["qat"] else LEARNING_RATE
    names = ("warmup", "weight_decay", "clip_norm", "clip_tensor_norm")
    return OptimizerConfig(optimizer, lr, **{name: options[name] for name in names})


def export(model: MoViNet, out: Path, name: str, size: int, labels: Sequence[str]) -> Path:
    if name == "tf-checkpoint":
        from movinet_convert.export.tensorflow import export_checkpoint

        return export_checkpoint(model, out / model.variant.release_folder)
    from movinet_convert.export import export_model

    path = out / ("saved_model" if name == "saved-model" else f"model.{name}")
    return export_model(model, path, name, size=(size, size), labels=labels).path


if __name__ == "__main__":
    main()
