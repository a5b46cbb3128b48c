"""The metadata of every exported file, one JSON object under the key ``movinet``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pydantic

from movinet_convert.errors import ExportError
from movinet_convert.export.step import Program
from movinet_convert.model import MoViNet
from movinet_convert.model.settings import check_settings, get_variant
from movinet_convert.model.state import StateSpec
from movinet_convert.variants import Settings
from movinet_convert.weights.file import DTYPES
from movinet_convert.weights.header import ClassCount, first_error
from movinet_convert.weights.labels import Labels, given_names, known_names

KEY = "movinet"
LARGEST_SIDE = 1 << 16  # pixels, or frames


class Input(pydantic.BaseModel):
    name: str
    shape: tuple[int, ...]
    dtype: str


class Metadata(pydantic.BaseModel):
    """The metadata that running a file depends on, which anyone may have written."""

    model_config = pydantic.ConfigDict(frozen=True)

    variant: str
    settings: Settings
    num_classes: ClassCount
    labels: tuple[str, ...] | None
    inputs: tuple[Input, ...]

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Metadata:
        variant = get_variant(self.variant)
        check_settings(variant, self.settings)
        if self.labels is not None and len(self.labels) != self.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.num_classes} classes")
        expected = ["clip"]
        if variant.causal:
            expected = ["frames", *StateSpec.of(variant, self.settings).shapes(1, 1, 1)]
        if [given.name for given in self.inputs] != expected:
            raise ValueError(f"the inputs are not those of {self.variant}")
        clip = self.inputs[0]
        if len(clip.shape) != 5 or clip.shape[1] != 3 or clip.dtype not in DTYPES:
            raise ValueError(f"{clip.name} is not (B, 3, T, H, W) of floats")
        if not all(0 < side <= LARGEST_SIDE for side in clip.shape):
            raise ValueError(f"{clip.name} has an impossible shape")
        return self


def parse(text: str, where: str) -> Metadata:
    """The metadata of the file ``where``; ExportError if ``export`` did not write them."""
    try:
        return Metadata.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise ExportError(
            f"{where} does not describe a network as export does ({first_error(error)}); "
            "export it again."
        ) from None


def metadata(model: MoViNet, program: Program, labels: Labels | None) -> dict[str, Any]:
    """The variant, its settings and classes, and the inputs and outputs in order, for JSON.

    States start as zeros; each output ``NAME.next`` is the next call's input ``NAME``. Labels are
    those given, by default the model's, then those of Kinetics-600 for 600 classes, and null where
    none are known. Raises UsageError unless there is one label for each class.
    """
    variant = model.variant
    given = given_names(model.labels if labels is None else labels, model.num_classes)
    names = known_names(given, model.num_classes)
    return {
        "variant": variant.name,
        "settings": asdict(model.settings),
        "num_classes": model.num_classes,
        "labels": list(names) if names is not None else None,
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
