"""Measure the accuracy that int8 costs a trained network, before and after --qat.

    python scripts/int8_accuracy.py --folder runs/int8

Trains an a0-stream with examples/finetune on generated videos whose classes are a shape and its
motion, fine-tunes it with --qat, exports both in every format that has int8, calibrated on videos
of training, and compares the top class of 500 videos of another seed in the formats' own runtimes.
Exits with 1 if the bar is missed: float32 at least 95%, int8 at most 1 point less, and after --qat
at most 0.3 less than the better of the two float networks. Formats that are not installed are left
out.

Training takes about half an hour of one core. Networks stay in the folder and are not trained
again; a run that was stopped resumes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from examples.finetune.data import ClipSpec, Views
from examples.finetune.shapes import HARD, write_shapes
from examples.finetune.splits import read_split
from movinet_convert import load_converted, load_exported
from movinet_convert.errors import MissingExtraError
from movinet_convert.export import export_model
from movinet_convert.export.agreement import agreement_of
from movinet_convert.export.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from examples.finetune.splits import Split
    from movinet_convert.export.agreement import Agreement
    from movinet_convert.model import MoViNet
    from movinet_convert.video.dataset import LabelledVideo

TRAINING_SEED, TRAINING_VIDEOS = 0, 60  # of each of the 20 classes
HELD_OUT_SEED, HELD_OUT_VIDEOS = 9000, 25
CALIBRATION_VIDEOS = 64
CLIP = ClipSpec(frames=8, size=48, fps=10.0)
LENGTH = f"--frames {CLIP.frames} --size {CLIP.size} --resize {CLIP.size} --fps {CLIP.fps:g}"
PLAIN = "--crop plain --flip 0"  # a flip would make another class of some
COMMON = f"{LENGTH} {PLAIN} --batch 8 --workers 0 --device cpu --resume"
TRAINING = f"--model a0-stream --random --gating keras --epochs 10 {COMMON}"
QAT = f"--qat --epochs 2 {COMMON}"
MIN_TOP1 = 95.0  # percent
MOST_LOST = {"float": 1.0, "qat": 0.3}  # points of top-1, by training
ROUNDING = 1e-6
ANY = 1e3  # loss of the logits: it is the classes that count here


@dataclass(frozen=True)
class Row:
    """A network as a file, over the held-out videos: top-1 in percent; agreement with float32."""

    training: str
    format: str
    precision: str
    top1: float
    agreement: Agreement
    megabytes: float

    def line(self) -> str:
        found = self.agreement
        return (
            f"{self.training:<6} {self.format:<13} {self.precision:<9} {self.top1:7.1f} "
            f"{100 * found.top1:12.1f} {found.correlation:12.4f} {self.megabytes:7.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="Of networks and videos.")
    parser.add_argument("--network", type=Path, help="Already trained on the folder's videos.")
    able = [name for name, row in FORMATS.items() if "int8" in row.quantize]
    parser.add_argument("--format", nargs="+", choices=able, default=able, dest="formats")
    parser.add_argument("--minutes", type=float, default=90, help="Most for training.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder: Path = options.folder.resolve()
    deadline = time.monotonic() + 60 * options.minutes
    split = read_split(videos(folder / "videos"))
    trained = (
        options.network.resolve() if options.network else train(folder, "float", TRAINING, deadline)
    )
    networks = {
        "float": load_converted(trained),
        "qat": load_converted(train(folder, "qat", f"{QAT} --model {trained}", deadline)),
    }
    print(f"{'':<30} {'top-1 %':>7} {'same class %':>12} {'correlation':>12} {'MB':>7}")
    rows = []
    for row in measure(networks, split, options.formats, folder):
        print(row.line(), flush=True)
        rows.append(row)
    if not any(row.precision == "int8" for row in rows):
        sys.exit("No format was measured in int8.")
    sys.exit(0 if passed(rows) else 1)


def videos(folder: Path) -> Path:
    if not folder.exists():
        unfinished = folder.with_name("unfinished-videos")
        write_shapes(unfinished / "train", TRAINING_VIDEOS, seed=TRAINING_SEED, look=HARD)
        write_shapes(unfinished / "val", HELD_OUT_VIDEOS, seed=HELD_OUT_SEED, look=HARD)
        unfinished.rename(folder)
    return folder


def train(folder: Path, name: str, options: str, deadline: float) -> Path:
    """The file of the network ``name``, trained unless it is there."""
    file = folder / name / "model.safetensors"
    if not file.exists():
        print(f"training {name}", flush=True)
        command = [sys.executable, "-m", "examples.finetune", str(folder / "videos")]
        subprocess.run(
            [*command, *options.split(), "--out", str(folder / name)],
            check=True,
            cwd=Path(__file__).resolve().parent.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=max(1.0, deadline - time.monotonic()),
        )
    return file


def measure(
    networks: dict[str, MoViNet], split: Split, formats: list[str], folder: Path
) -> Iterator[Row]:
    held_out, labels = clips(split.held_out), torch.tensor([v.label for v in split.held_out])
    every = len(split.training) // CALIBRATION_VIDEOS
    calibration = clips(split.training[::every][:CALIBRATION_VIDEOS])
    for training, model in networks.items():
        reference = logits(model, held_out)
        for format in formats:
            for precision, options in (
                ("float32", {}),
                ("int8", {"quantize": "int8", "calibration": calibration, "allow_loss": ANY}),
            ):
                path = folder / f"{training}-{precision}-{format}"
                size = (CLIP.size, CLIP.size)
                try:
                    report = export_model(model, path, format, size=size, **options)
                except MissingExtraError as error:
                    print(f"{format} is left out: {error}")
                    continue
                found = logits(load_exported(report.path, threads=1), held_out)
                top1 = 100 * (found.argmax(dim=1) == labels).double().mean().item()
                agreement = agreement_of(found, reference, 0, len(held_out))
                yield Row(training, format, precision, top1, agreement, report.bytes / 1e6)


def clips(videos: Sequence[LabelledVideo]) -> list[Tensor]:
    """Clips (1, 3, T, H, W) of the middle of videos."""
    views = Views(videos, len({video.label for video in videos}), CLIP)
    return [views[i].clips for i in range(len(videos))]


@torch.no_grad()
def logits(model: Callable[[Tensor], Tensor], clips: list[Tensor]) -> Tensor:
    return torch.cat([model(clip) for clip in clips])


def passed(rows: list[Row]) -> bool:
    floats = {row.training: row.top1 for row in rows if row.precision == "float32"}
    references = {"float": floats["float"], "qat": max(floats.values())}
    reached = floats["float"]
    missed = [f"float32 has {reached:.1f}%, not {MIN_TOP1}%"] if reached < MIN_TOP1 else []
    for row in rows:
        lost = references[row.training] - row.top1
        if row.precision == "int8":
            print(f"{row.format}, int8, {row.training}: {lost:.1f} points lost")
            if lost > MOST_LOST[row.training] + ROUNDING:
                missed.append(f"{row.format} loses {lost:.1f} points, {row.training}")
    print("\n".join(f"MISSED: {text}" for text in missed) or "The bar is met.")
    return not missed


if __name__ == "__main__":
    main()
