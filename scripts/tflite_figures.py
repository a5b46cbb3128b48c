"""Convert TFLite files of the official exporter, and compare the logits with the interpreter's.

    python scripts/tflite_figures.py                                   # A0, A2 and A3 stream
    python scripts/tflite_figures.py a0-stream --kinds dynamic --checkpoint PATH --gating keras

Each model is exported with official/projects/movinet/tools/export_saved_model.py, converted by
TensorFlow, read without it, and both networks see the same 20 frames. The exit code is 1 if a
gating was told wrong, or float32 logits differ by more than 1e-5 of their standard deviation.

A float16 file also rounds constants that are no weights: 0.16667 of the gate, 1/positions of the
head's mean and the angles of a positional encoding. The second figure is with the first two put
into the converted network.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.conversion.sources import given
from movinet_convert.conversion.tensors import Converted, convert_checkpoint
from movinet_convert.parity.cases import random_clips
from scripts.tflite_files import interpreted, write

FRAMES, TOLERANCE = 20, 1e-5
GATE = 0.16667


@torch.no_grad()
def frame_by_frame(converted: Converted, video: np.ndarray) -> np.ndarray:
    """Logits (T, classes) after each frame of a video (1, 3, T, H, W)."""
    model, rows, state = converted.to_model(), [], None
    for at in range(video.shape[2]):
        logits, state = model.stream(torch.from_numpy(video[:, :, at : at + 1]), state)
        rows.append(logits.numpy()[0])
    return np.stack(rows)


def put_in_rounded_constants(converted: Converted, positions: int) -> None:
    """Give the weights behind the gates and the head's mean what float16 changes in those."""
    gate = float(np.float16(GATE)) / GATE if converted.settings.gating == "model-garden" else 1.0
    mean = float(np.float16(1 / positions)) * positions
    for name, tensor in converted.tensors.items():
        if name.endswith("projection.conv.weight"):
            tensor *= gate
        elif name == "classifier.hidden.weight":
            tensor *= mean


def compare(path: Path, size: int) -> tuple[Converted, np.ndarray, np.ndarray, float]:
    """The converted network, our logits, the interpreter's, and their largest difference."""
    converted = convert_checkpoint(given(path))
    video = random_clips(1, FRAMES, size, size, seed=9)
    theirs, ours = interpreted(path, video), frame_by_frame(converted, video)
    return converted, ours, theirs, float(np.abs(ours - theirs).max() / theirs.std())


def report(name: str, kind: str, path: Path, size: int) -> tuple[str, bool]:
    """Print a line; returns the gating that was told, and whether the logits are close enough."""
    converted, ours, theirs, difference = compare(path, size)
    line = f"{name} {kind}: gating {converted.settings.gating}, difference {difference:.2e} std"
    if kind == "float16":
        put_in_rounded_constants(converted, (-(-size // 32)) ** 2)
        video = random_clips(1, FRAMES, size, size, seed=9)
        rest = np.abs(frame_by_frame(converted, video) - theirs).max() / theirs.std()
        line += f" ({rest:.2e} with the file's constants)"
    correlation = np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]
    print(f"{line}, correlation {correlation:.6f}", flush=True)
    return converted.settings.gating, kind != "float32" or difference <= TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=["a0-stream", "a2-stream", "a3-stream"])
    parser.add_argument("--kinds", default="float32,float16,dynamic")
    parser.add_argument("--gating", choices=["keras", "model-garden"], help="both if not given")
    parser.add_argument("--checkpoint", help="weights; seeded ones if not given")
    parser.add_argument("--size", type=int, help="of the frames; the variant's own if not given")
    options = parser.parse_args()
    weights: dict[str, Any] = {}
    if options.checkpoint:
        variables = dict(open_checkpoint(options.checkpoint).variables)
        (bias,) = (n for n in variables if n.endswith("_classifier/_conv/_conv/bias"))
        weights = {"variables": variables, "classes": variables[bias].size}
    good = True
    for name in options.names:
        for gating in [options.gating] if options.gating else ["keras", "model-garden"]:
            with tempfile.TemporaryDirectory() as folder:
                written = write(
                    Path(folder), name, gating, size=options.size, exporter=True, **weights
                )
                for kind in options.kinds.split(","):
                    told, close = report(name, kind, written.file(kind), written.shape[2])
                    good &= close and told == gating
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
