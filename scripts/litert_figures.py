"""Compare exported TFLite files of one network: bytes, operators, time and logits.

    python scripts/litert_figures.py official.tflite float32.tflite weights.tflite int8.tflite

The first file is the reference. Files of ``export --format tflite`` and ``--format litert`` run in
LiteRT's interpreter on one thread, in turn, so that the ratios hold on a busy machine: the time is
that of the processor for a bare ``invoke``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter

sys.path.insert(0, str(Path(__file__).parents[1]))

from movinet_convert.export import load_exported, tflite_file
from scripts.exported_figures import SEED, agreement, logits_of

ROUNDS = 40


def milliseconds(files: list[Path]) -> list[float]:
    """The median processor time of a bare ``invoke``."""
    interpreters = [Interpreter(str(file), num_threads=1) for file in files]
    generator = np.random.default_rng(SEED)
    for interpreter in interpreters:
        interpreter.allocate_tensors()
        for tensor in interpreter.get_input_details():
            value = generator.uniform(0, 1, tensor["shape"]).astype(tensor["dtype"])
            interpreter.set_tensor(tensor["index"], value)
    times: list[list[float]] = [[] for _ in files]
    for _ in range(ROUNDS):
        for interpreter, found in zip(interpreters, times, strict=True):
            interpreter.invoke()
            for _ in range(5):
                start = time.process_time()
                interpreter.invoke()
                found.append(time.process_time() - start)
    return [1e3 * statistics.median(found) for found in times]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    files = parser.parse_args().files
    torch.set_num_threads(1)
    models = [load_exported(file, threads=1) for file in files]
    reference, taken = logits_of(models[0]), milliseconds(files)
    print("file | bytes | operators | ms | ratio | correlation | same top class | mean error, std")
    for file, model, ms in zip(files, models, taken, strict=True):
        graph = tflite_file.parse(file.read_bytes()).subgraphs[0]
        print(
            f"{file.name} | {file.stat().st_size:,} | {len(graph.operators)} | {ms:.2f} | "
            f"{ms / taken[0]:.2f} | {agreement(model, reference)}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
