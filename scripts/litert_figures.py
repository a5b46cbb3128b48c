"""Compare exported TFLite files of one network: bytes, operators, time and logits.

    python scripts/litert_figures.py official.tflite float32.tflite weights.tflite int8.tflite

The first file is the reference. Files of ``export --format tflite`` and ``--format litert`` run in
LiteRT's interpreter on one thread, in turn, so that the ratios hold on a busy machine: the time is
that of the processor, per call, states passed in and out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from movinet_convert.export import ExportedModel, load_exported, tflite_file
from movinet_convert.export.agreement import agreement_of, moving_images

FRAMES, SEED, ROUNDS = 20, 11, 40  # images that no export calibrates or checks with


def logits_of(model: ExportedModel) -> torch.Tensor:
    """(frames, classes) over smooth moving images."""
    clips = moving_images((1, 3, FRAMES, *model.size), SEED)
    return torch.cat([model.stream(clip, per_frame=True)[0][0] for clip in clips])


def milliseconds(models: list[ExportedModel]) -> list[float]:
    """The median processor time of a frame."""
    frame = torch.rand(1, 3, 1, *models[0].size)
    videos = [model.stream_video(iter(lambda: frame, None)) for model in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for video, found in zip(videos, times, strict=True):
            next(video)
            for _ in range(5):
                start = time.process_time()
                next(video)
                found.append(time.process_time() - start)
    return [1e3 * statistics.median(found) for found in times]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    files = parser.parse_args().files
    torch.set_num_threads(1)
    models = [load_exported(file, threads=1) for file in files]
    reference, taken = logits_of(models[0]), milliseconds(models)
    print("file | bytes | operators | ms | ratio | correlation | same top class | mean error, std")
    for file, model, ms in zip(files, models, taken, strict=True):
        graph = tflite_file.parse(file.read_bytes()).subgraphs[0]
        found = agreement_of(logits_of(model), reference, len(reference), len(reference) // FRAMES)
        print(
            f"{file.name} | {file.stat().st_size:,} | {len(graph.operators)} | {ms:.2f} | "
            f"{ms / taken[0]:.2f} | {found.correlation:.5f} | {found.top1:.1%} | "
            f"{found.mean_error:.1e}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
