"""Which layers become 8-bit, and which stay float: measured, one layer at a time."""

from __future__ import annotations

import copy
import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from movinet_convert.export.quantization.calibration import samples
from movinet_convert.export.quantization.fake import (
    Range,
    is_depthwise,
    is_pointwise,
    layers,
    quantized_weight,
    weight_of,
)
from movinet_convert.export.quantization.observation import observe, ranges_of, watching
from movinet_convert.export.quantization.preparation import (
    correct_biases,
    equalize,
    keeps_float_input,
)
from movinet_convert.export.step import Program
from movinet_convert.files.writing import replacing

# Mean absolute error of the logits relative to their std that the simulation may have: a third of
# what a file may (agreement.FLOORS), since runtimes also round between these layers.
TARGET = 0.04
CLIPS, CALLS = 3, 8  # that each layer is measured over: calls of a clip, from its start


@dataclass(frozen=True)
class LayerError:
    """A layer whose input and weights alone are 8-bit, and what that does to the logits.

    ``mean_error`` is absolute and relative to the std of the float logits. ``input``: "int8", or
    "float" for a layer that stays float (its weights may still be stored in 8 bits).
    """

    layer: str
    kind: str
    weights: int
    mean_error: float
    input: str


@dataclass(frozen=True)
class Plan:
    """A program with prepared weights, and its layers by path in ``program.module``.

    ``float_layers`` compute with float activations; all weights that the runtime stores so are to
    be 8-bit. ``ranges`` are of the inputs of the others. ``mean_error`` is that of all of it
    together, in the simulation. ``inputs`` are of the program, over the calibration ``clips``.
    """

    program: Program
    clips: Sequence[Tensor]
    inputs: Sequence[tuple[Tensor, ...]]
    float_layers: frozenset[str]
    ranges: Mapping[str, Range]
    errors: tuple[LayerError, ...]
    mean_error: float

    def write_csv(self, path: Path) -> None:
        """The errors by layer, the largest first."""
        with replacing(path) as written, written.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(LayerError)])
            writer.writeheader()
            writer.writerows(asdict(error) for error in self.errors)


@torch.no_grad()
def plan(
    program: Program,
    clips: Sequence[Tensor],
    *,
    depthwise: bool = True,
    pointwise_only: bool = False,
) -> Plan:
    """Prepare a program for int8 with calibration clips.

    Not ``depthwise``: the runtime computes depthwise convolutions faster in float.
    ``pointwise_only``: only layers with a kernel of 1 x 1 are quantized, weights included.
    """
    program = replace(program, module=copy.deepcopy(program.module))
    inputs = samples(program, clips)
    found = layers(program.module)
    stored = [path for path in found if not pointwise_only or is_pointwise(found[path])]
    equalize(program.module, observe(program, inputs, found))
    ranges = ranges_of(observe(program, inputs, found))
    simulation = Simulation(program, clips, ranges)
    errors = {path: simulation.error([path]) for path in found}
    candidates = [
        path
        for path in stored
        if not keeps_float_input(path) and (depthwise or not is_depthwise(found[path]))
    ]
    chosen, reached = choose(simulation, {path: errors[path] for path in candidates})
    correct_biases(program, inputs, ranges, chosen, stored)
    rows = [
        LayerError(
            path,
            "depthwise" if is_depthwise(layer) else "linear" if keeps_float_input(path) else "full",
            weight_of(layer).numel(),
            errors[path],
            "int8" if path in chosen else "float",
        )
        for path, layer in found.items()
    ]
    return Plan(
        program,
        clips,
        inputs,
        frozenset(found) - chosen,
        {path: ranges[path] for path in chosen},
        tuple(sorted(rows, key=lambda row: -row.mean_error)),
        reached,
    )


def choose(
    simulation: Simulation, errors: Mapping[str, float], target: float = TARGET
) -> tuple[frozenset[str], float]:
    """As many layers, those of the least errors, as together stay below ``target``."""
    paths = sorted(errors, key=lambda path: errors[path])
    allowed = target
    while True:
        total, chosen = 0.0, []
        for path in paths:  # errors of different layers are nearly independent
            total += errors[path] ** 2
            if total**0.5 <= allowed:
                chosen.append(path)
        reached = simulation.error(chosen)
        if reached <= target or not chosen:
            return frozenset(chosen), reached
        allowed *= 0.85


class Simulation:
    """Runs the program with some of its layers in 8 bits, from the start of some of the clips."""

    def __init__(
        self, program: Program, clips: Sequence[Tensor], ranges: Mapping[str, Range]
    ) -> None:
        self.program, self.ranges = program, ranges
        step = max(1, len(clips) // CLIPS)
        self.clips = clips[::step][:CLIPS]
        self.reference = self.logits()

    def error(self, quantized: Collection[str]) -> float:
        """Mean absolute error of the logits, relative to their std in float."""
        found = layers(self.program.module)
        weights = {path: weight_of(found[path]) for path in quantized}
        before = {path: weight.clone() for path, weight in weights.items()}
        for weight in weights.values():
            weight.copy_(quantized_weight(weight))
        quantizers = {path: self.ranges[path].quantize for path in quantized}
        with watching(self.program.module, quantizers):
            error = self.error_of(self.logits())
        for path, weight in weights.items():
            weight.copy_(before[path])
        return error

    def error_of(self, logits: Tensor) -> float:
        return ((logits - self.reference).abs().mean() / self.reference.std()).item()

    def logits(self) -> Tensor:
        program, logits = self.program, []
        for clip in self.clips:
            if program.dynamic_frames:
                logits.append(program.module(clip))
                continue
            states = program.example[1:]
            for chunk in torch.split(clip, program.frames, dim=2)[:CALLS]:
                if chunk.shape[2] == program.frames:
                    found, *states = program.module(chunk, *states)
                    logits.append(found)
        return torch.cat(logits)
