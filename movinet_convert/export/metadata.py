"""The metadata of every exported file, one JSON object under the key ``movinet``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from movinet_convert.errors import UsageError
from movinet_convert.export.step import Program
from movinet_convert.model import MoViNet
from movinet_convert.variants import KINETICS_600_CLASSES
from movinet_convert.weights.labels import kinetics_600

KEY = "movinet"


def metadata(model: MoViNet, program: Program, labels: Sequence[str] | None) -> dict[str, Any]:
    """The variant, its settings and classes, and the inputs and outputs in order, for JSON.

    States start as zeros; each output ``NAME.next`` is the next call's input ``NAME``. Labels are
    those of Kinetics-600 unless given where there are 600 classes, and null where none are known.
    Raises UsageError unless there is one label for each class.
    """
    variant = model.variant
    if labels is not None and len(labels) != model.num_classes:
        raise UsageError(
            f"There are {len(labels)} labels for the {model.num_classes} classes of "
            f"{variant.name}; give one for each."
        )
    if labels is None and model.num_classes == KINETICS_600_CLASSES:
        labels = kinetics_600()
    return {
        "variant": variant.name,
        "settings": asdict(model.settings),
        "num_classes": model.num_classes,
        "labels": list(labels) if labels is not None else None,
        "input": {
            "layout": "(B, 3, T, H, W)",
            "range": [0.0, 1.0],
            "colours": "RGB",
            "fps": variant.input.fps,
            "resize": variant.input.resize,
            "size": list(program.size),
        },
        "inputs": [
            {"name": name, "shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
            for name, t in zip(program.inputs, program.example, strict=True)
        ],
        "outputs": list(program.outputs),
    }
