"""A model with known predictions: its last layer is fitted to classify colours.

The rest of it is random. Videos of a single colour then have logits that tests can spell out.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import torch

from movinet_convert import create_model
from movinet_convert.model import MoViNet
from movinet_convert.video.encode import write_video
from movinet_convert.weights.file import write_weights
from movinet_convert.weights.header import Header

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 40),
    "cyan": (40, 210, 220),
    "black": (12, 12, 12),
    "white": (245, 245, 245),
}
LABELS = tuple(COLOURS)
# The model ranks colour c first, then the colours that follow it in order, so the rank of a label
# is its distance after the colour that is shown: (label, shown) -> rank.
SHOWN = [
    ("red", "red"),
    ("red", "red"),
    ("green", "green"),
    ("blue", "blue"),
    ("yellow", "yellow"),
    ("cyan", "cyan"),
    ("green", "red"),  # second
    ("cyan", "red"),  # fifth, still in the top 5
    ("black", "red"),  # sixth
    ("red", "green"),  # last
]
TOP1, TOP5 = 60.0, 80.0  # percent
HEIGHT, WIDTH = 96, 128
FPS = 10
MARGIN = 8.0  # between neighbours in the ranking of a colour's logits
JITTER = 6  # levels of 255
SAMPLES = 8
RCOND = 1e-5  # ignores directions in which features differ only by noise


def wanted_logits() -> torch.Tensor:
    """Row c: the logits of colour c, highest for c, then for the colours that follow it."""
    count = len(LABELS)
    row = -MARGIN * torch.arange(count, dtype=torch.float64)
    return torch.stack([row.roll(i) for i in range(count)])


def colour_model(name: str) -> MoViNet:
    """A new copy for each caller; the fit is computed once."""
    return copy.deepcopy(_fitted(name))


@cache
def _fitted(name: str) -> MoViNet:
    torch.manual_seed(0)
    model = create_model(name, num_classes=len(LABELS)).eval().double()
    clips, targets = _jittered(model.variant.input.size // 4)
    features: list[torch.Tensor] = []
    hook = model.classifier.output.register_forward_pre_hook(
        lambda _module, inputs: features.append(inputs[0])
    )
    with torch.no_grad():
        model(clips)
        hook.remove()
        known = torch.nn.functional.pad(features[0], (0, 1), value=1.0)
        solved = torch.linalg.lstsq(known, targets, driver="gelsd", rcond=RCOND).solution
        model.classifier.output.weight.copy_(solved[:-1].T)
        model.classifier.output.bias.copy_(solved[-1])
    return model.float()


def _jittered(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of every colour with small shifts, as a lossy codec causes."""
    colours = torch.tensor(list(COLOURS.values()), dtype=torch.float64)
    noise = torch.randint(-JITTER, JITTER + 1, (SAMPLES, len(LABELS), 3)).double()
    near = (colours + noise).clamp(0, 255).flatten(0, 1) / 255
    clips = near[:, :, None, None, None].expand(-1, -1, 1, size, size)
    return clips, wanted_logits().repeat(SAMPLES, 1)


def write_colour_model(path: Path, name: str) -> Path:
    model = colour_model(name)
    write_weights(path, model.state_dict(), Header.of_model(model, labels=LABELS))
    return path


def image(colour: str) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), COLOURS[colour], np.uint8)


def write_colours(path: Path, *colours: str, seconds: float = 1.0) -> Path:
    """A video that shows one colour after another, ``seconds`` each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = round(seconds * FPS)
    write_video(path, (image(colour) for colour in colours for _ in range(frames)), FPS)
    return path
