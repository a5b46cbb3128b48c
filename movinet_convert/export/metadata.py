"""What every exported file says about itself, as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from movinet_convert.errors import UsageError
from movinet_convert.export.agreement import FLOORS, Agreement
from movinet_convert.export.step import Program
from movinet_convert.model import MoViNet
from movinet_convert.variants import KINETICS_600_CLASSES
from movinet_convert.weights.labels import kinetics_600

KEY = "movinet"


def metadata(model: MoViNet, program: Program, labels: Sequence[str] | None) -> str:
    """The variant, its settings, classes, and the inputs and outputs in order, as JSON.

    States start as zeros; each output ``NAME.next`` is the next call's input ``NAME``. Labels are
    those of Kinetics-600 unless given where there are 600 classes, and null where none are known.
    Raises UsageError for another number of labels than there are classes.
    """
    variant = model.variant
    if labels is not None and len(labels) != model.num_classes:
        raise UsageError(
            f"There are {len(labels)} labels for the {model.num_classes} classes of "
            f"{variant.name}; give one for each."
        )
    if labels is None and model.num_classes == KINETICS_600_CLASSES:
        labels = kinetics_600()
    return json.dumps(
        {
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
                "size": list(program.example[0].shape[-2:]),
            },
            "inputs": [
                {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype)[6:]}
                for name, tensor in zip(program.inputs, program.example, strict=True)
            ],
            "outputs": list(program.outputs),
        },
        sort_keys=True,
    )


def with_measured(told: str, agreement: Agreement, kind: str, allow_loss: float | None) -> str:
    """The metadata with how a file of smaller numbers agreed with the float model."""
    floor = {k: v for k, v in asdict(FLOORS[kind]).items() if k != "help"}
    measured = {"kind": kind, **agreement.as_json(), "floor": floor, "allow_loss": allow_loss}
    return json.dumps({**json.loads(told), "measured": measured}, sort_keys=True)
