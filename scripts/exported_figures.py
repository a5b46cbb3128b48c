"""Compare exported files of one stream network: bytes, time and logits.

    python scripts/exported_figures.py float32.pte weights.pte int8.pte

The first file is the reference. The files run in turn on one thread, so that the ratios hold on a
busy machine: the time is that of the processor for a frame, states passed on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from movinet_convert.export import ExportedModel, load_exported
from movinet_convert.export.agreement import agreement_of, moving_images

FRAMES, SEED, ROUNDS = 20, 11, 20  # images that no export calibrates or checks with


def logits_of(model: ExportedModel) -> torch.Tensor:
    """(frames, classes) over smooth moving images."""
    clips = moving_images((1, 3, FRAMES, *model.size), SEED)
    return torch.cat([logits for clip in clips for logits in model.stream_video(clip.split(1, 2))])


def agreement(model: ExportedModel, reference: torch.Tensor) -> str:
    """Correlation, same top class and mean error of its logits, for a row."""
    found = agreement_of(logits_of(model), reference, len(reference), len(reference) // FRAMES)
    return f"{found.correlation:.5f} | {found.top1:.1%} | {found.mean_error:.1e}"


def milliseconds(models: list[ExportedModel]) -> list[float]:
    """The median processor time of a frame."""
    frames = torch.rand(1, 3, FRAMES, *models[0].size).split(1, 2)
    times: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for model, found in zip(models, times, strict=True):
            start = time.process_time()
            for _ in model.stream_video(frames):
                found.append(time.process_time() - start)
                start = time.process_time()
    return [1e3 * statistics.median(found) for found in times]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    files = parser.parse_args().files
    torch.set_num_threads(1)
    models = [load_exported(file, threads=1) for file in files]
    reference, taken = logits_of(models[0]), milliseconds(models)
    print("file | bytes | ratio | ms | ratio | correlation | same top class | mean error, std")
    size = files[0].stat().st_size
    for file, model, ms in zip(files, models, taken, strict=True):
        bytes = file.stat().st_size
        print(
            f"{file.name} | {bytes:,} | {bytes / size:.2f} | {ms:.2f} | {ms / taken[0]:.2f} | "
            f"{agreement(model, reference)}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
