"""Train networks by examples/finetune on generated videos, and compare with what they must reach.

    python scripts/recipe_accuracy.py --folder runs/recipe

The classes are twelve motions that no single frame shows (examples/finetune/motions.py). Four runs
of an a0-stream, evaluated on videos of another seed:

    seed-0, seed-1   from random weights: top-1 at least 95%
    torchrun         the same in two processes, with half the batch each: at least 95%
    pairs            from seed-0, two motions in each video: mean average precision at least 0.9

Exits with 1 if a bar is missed. Takes about 25 minutes of one core. Networks stay in the folder and
are not trained again; a run that was stopped resumes. Each logs to FOLDER/NAME.log.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from examples.finetune.checkpoint import METRICS_NAME
from examples.finetune.motions import write_motions, write_pairs

ROOT = Path(__file__).resolve().parent.parent
TRAINING_SEED, HELD_OUT_SEED = 0, 9000
VIDEOS = {"train": 400, "val": 40}  # of each motion
PAIRS = {"train": 2400, "val": 480}
CONFIG = ROOT / "examples" / "finetune" / "configs" / "motions.yaml"
TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 2"
MODEL_NAME = "model.safetensors"


@dataclass(frozen=True)
class Run:
    """A run and what it must reach; ``measure`` is a column of its metrics."""

    name: str
    options: str
    measure: str = "held_out_accuracy"
    bar: float = 0.95
    videos: str = "motions"
    start: str = ""  # of the run whose network it continues
    launcher: str = ""


RUNS = (
    Run("seed-0", "--random --gating keras --seed 0"),
    Run("seed-1", "--random --gating keras --seed 1"),
    Run("torchrun", "--random --gating keras --seed 0 --batch 8", launcher=TORCHRUN),
    Run(
        "pairs",
        "--layout multi-label --label-smoothing 0 --frames 16 --epochs 2",
        measure="held_out_precision",
        bar=0.9,
        videos="pairs",
        start="seed-0",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="Of networks and videos.")
    names = [run.name for run in RUNS]
    parser.add_argument("--run", nargs="+", choices=names, default=names, dest="names")
    parser.add_argument("--minutes", type=float, default=60, help="Most for each run.")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    write_videos(folder)
    missed = []
    for run in RUNS:
        if run.name in options.names:
            found, minutes = train(folder, run, options.minutes)
            verdict = "met" if found >= run.bar else "MISSED"
            print(
                f"{run.name:<9} {run.measure:<18} {found:6.1%}  bar {run.bar:.0%} {verdict}  "
                f"({minutes:.1f} minutes of training)",
                flush=True,
            )
            missed += [run.name] if found < run.bar else []
    sys.exit(1 if missed else 0)


def write_videos(folder: Path) -> None:
    """Into a folder beside, and then moved: an interrupted run leaves no half of the videos."""
    for name in ("motions", "pairs"):
        if (folder / name).exists():
            continue
        unfinished = folder / f"unfinished-{name}"
        for part, seed in (("train", TRAINING_SEED), ("val", HELD_OUT_SEED)):
            if name == "motions":
                write_motions(unfinished / part, VIDEOS[part], seed=seed)
            else:
                write_pairs(unfinished, part, PAIRS[part], seed=seed)
        unfinished.rename(folder / name)


def train(folder: Path, run: Run, minutes: float) -> tuple[float, float]:
    """The measure of the last epoch, and the minutes that all epochs took."""
    out, log = folder / run.name, folder / f"{run.name}.log"
    if not (out / MODEL_NAME).exists():
        print(f"{time.strftime('%H:%M:%S')}  training {run.name}; its log is {log}", flush=True)
        options = f"{run.launcher} -m examples.finetune --config {CONFIG} {run.options}".split()
        if run.start:
            options += ["--model", str(folder / run.start / MODEL_NAME)]
        videos = folder / run.videos
        options += ["--lists", str(videos)] if run.videos == "pairs" else []
        with log.open("a", encoding="utf-8") as file:
            subprocess.run(
                [sys.executable, *options, str(videos), "--out", str(out), "--resume"],
                check=True,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=60 * minutes,
            )
    with (out / METRICS_NAME).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return float(rows[-1][run.measure]), sum(float(row["seconds"]) for row in rows) / 60


if __name__ == "__main__":
    main()
