"""Coordinates of the points, lines and ticks of the report's two charts, for the templates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from movinet_convert.parity.result import Distances

# In SVG units, each a little less than a pixel on a phone.
WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 390, 10, 210
SERIES = {
    "tf_fp32_pt_fp32": "TF float32 to PyTorch float32",
    "tf_fp32_pt_fp64": "TF float32 to PyTorch float64",
    "pt_fp32_pt_fp64": "PyTorch float32 to PyTorch float64",
}
LABEL_WIDTH = 27
SMALLEST = 1e-9  # a difference of zero is drawn at the foot of its chart


@dataclass(frozen=True)
class Axis:
    """A linear axis from ``low`` at ``start`` to ``high`` at ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """About five round numbers."""
        rough = (self.high - self.low) / 5
        power: float = 10 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        numbers = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [round(i * step, 12) for i in numbers]


def layer_chart(layers: Mapping[str, Distances]) -> dict[str, Any]:
    """Differences after every layer, on a logarithmic scale."""
    values = {
        key: [max(getattr(distances, key), SMALLEST) for distances in layers.values()]
        for key in SERIES
    }
    finite = [v for series in values.values() for v in series if math.isfinite(v)] or [1.0]
    low, high = math.floor(math.log10(min(finite))), math.ceil(math.log10(max(finite)))
    x = Axis(0, len(layers) - 1, LEFT, RIGHT)
    y = Axis(low, max(high, low + 1), BOTTOM, TOP)
    series = {
        key: [
            {"x": x(i), "y": y(math.log10(value)), "layer": name, "value": value}
            for i, (name, value) in enumerate(zip(layers, values[key], strict=True))
            if math.isfinite(value)
        ]
        for key in SERIES
    }
    powers = [(power, y(power)) for power in range(low, int(y.high) + 1)]
    return {"series": series, "powers": powers, "stages": _stages(list(layers), x)}


def _stages(layers: Sequence[str], x: Axis) -> list[dict[str, Any]]:
    """The start of each stage: stem, block0, block1, ..., head; labels where they fit."""
    stages: list[dict[str, Any]] = []
    previous, free = "", 0.0
    for i, name in enumerate(layers):
        stage = name.split("_")[0]
        if stage != previous:
            labelled = x(i) >= free
            free = x(i) + LABEL_WIDTH if labelled else free
            label = stage.replace("block", "b") if labelled else ""
            stages.append({"x": x(i), "label": label})
        previous = stage
    return stages


def logit_chart(tf_fp32: Sequence[float], pt_fp32: Sequence[float]) -> dict[str, Any]:
    """PyTorch's logits against TensorFlow's, one point per class."""
    pairs = [
        (tf, pt)
        for tf, pt in zip(tf_fp32, pt_fp32, strict=True)
        if math.isfinite(tf) and math.isfinite(pt)
    ]
    values = [value for pair in pairs for value in pair] or [0.0]
    low, high = min(values), max(values)
    margin = 0.05 * ((high - low) or 1.0)
    x = Axis(low - margin, high + margin, LEFT, RIGHT)
    y = Axis(low - margin, high + margin, BOTTOM, TOP)
    return {
        "ticks": [{"value": f"{v:g}", "x": x(v), "y": y(v)} for v in x.ticks()],
        "points": [(x(tf), y(pt)) for tf, pt in pairs],
    }
