"""TFLite files that TensorFlow's converter wrote come out as the network that they compute."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.conversion import pipeline
from movinet_convert.conversion.inspection import inspect
from movinet_convert.conversion.sources import given
from movinet_convert.conversion.tensors import Converted, convert_checkpoint
from movinet_convert.errors import UsageError
from movinet_convert.parity.cases import random_clips
from scripts.tflite_figures import frame_by_frame, put_in_rounded_constants
from scripts.tflite_files import Written, interpreted, write
from tests.checkpoint.folding import folded
from tests.helpers.short_archs import short_archs

if TYPE_CHECKING:
    from pathlib import Path

FRAMES, SIZE, CLASSES = 20, 45, 7
TOLERANCE = 1e-5  # relative to the std of the logits
# Relative to the largest weight: half an 8-bit step, and two roundings to the 11 bits of float16,
# of the kernel and, in base models, of the scale behind it.
ROUNDING = {"float32": 4e-7, "float16": 2.0**-10, "dynamic": 0.5 / 127, "int8": 0.5 / 127}
# The converter adds the gate's 0.5 or 3 to a bias before it rounds it to float16.
GATE_ROUNDING = {**ROUNDING, "float16": 4e-3}
MODELS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "keras": ("t0-stream", "keras", {"head_activation": "hard_swish"}),
    "model-garden": ("a3-stream", "model-garden", {}),
    "base": ("t0-base", "sigmoid", {}),
}
Files = Callable[[str], Written]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    found: dict[str, Written] = {}

    def written(model: str) -> Written:
        if model not in found:
            name, gating, settings = MODELS[model]
            sizes = {"size": SIZE, "classes": CLASSES}
            found[model] = write(tmp_path_factory.mktemp(model), name, gating, **sizes, **settings)
        return found[model]

    with short_archs("t0", "a3"):
        yield written


def convert(path: Path, **choices: Any) -> Converted:
    return convert_checkpoint(given(path), **choices)


@pytest.mark.parametrize("model", ["keras", "model-garden"])
def test_logits_are_those_of_the_interpreter(model: str, files: Files) -> None:
    path = files(model).file("float32")
    video = random_clips(1, FRAMES, SIZE, SIZE, seed=9)
    theirs, ours = interpreted(path, video), frame_by_frame(convert(path), video)
    assert theirs.shape == ours.shape == (FRAMES, CLASSES)
    assert np.abs(theirs - ours).max() <= TOLERANCE * theirs.std()


def test_float16_differs_by_constants_that_are_no_weights(files: Files) -> None:
    """That of the head's mean, which the file has in float16, too."""
    path = files("keras").file("float16")
    converted = convert(path)
    put_in_rounded_constants(converted, positions=(-(-SIZE // 16)) ** 2)  # four strides of 2
    video = random_clips(1, FRAMES, SIZE, SIZE, seed=9)
    theirs, ours = interpreted(path, video), frame_by_frame(converted, video)
    assert np.abs(theirs - ours).max() <= TOLERANCE * theirs.std()


def test_dynamic_range_differs_by_the_quantization_of_activations(files: Files) -> None:
    path = files("keras").file("dynamic")
    video = random_clips(1, FRAMES, SIZE, SIZE, seed=9)
    theirs, ours = interpreted(path, video), frame_by_frame(convert(path), video)
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        *(("keras", kind) for kind in ROUNDING),
        ("model-garden", "float32"),
        ("base", "float32"),
        ("base", "float16"),
        ("base", "dynamic"),
    ],
)
def test_weights_are_those_of_training_up_to_rounding(model: str, kind: str, files: Files) -> None:
    written = files(model)
    stored = folded(dict(open_checkpoint(written.file(kind)).variables))
    trained = folded(written.variables)
    assert stored.keys() == trained.keys()
    for name, value in trained.items():
        bound = (GATE_ROUNDING if "_se_expand" in name else ROUNDING)[kind]
        assert np.abs(stored[name] - value).max() <= bound * np.abs(value).max(), name


@pytest.mark.parametrize("model", ["keras", "model-garden", "base"])
def test_settings_are_read_from_the_operators(model: str, files: Files) -> None:
    name, gating, settings = MODELS[model]
    converted = convert(files(model).file("float32"))
    assert converted.variant.name == name
    assert converted.settings.gating == gating
    assert converted.settings.head_activation == settings.get("head_activation", "swish")
    assert converted.settings.positional_encoding == (name == "a3-stream")
    assert {converted.origins.gating, converted.origins.head_activation} == {"checkpoint"}
    assert converted.origins.legacy == "checkpoint"
    assert converted.num_classes == CLASSES


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"gating": "model-garden"}, "compute gating 'keras', not 'model-garden'.*--gating"),
        ({"head_activation": "swish"}, "'hard_swish', not 'swish'.*--head-activation"),
    ],
)
def test_choice_that_contradicts_the_operators_is_rejected(
    choice: dict[str, str], said: str, files: Files
) -> None:
    path = files("keras").file("float32")
    with pytest.raises(UsageError, match=said):
        convert(path, **choice)
    convert(path, gating="keras", head_activation="hard_swish")


def test_nothing_is_left_to_detect(files: Files, tmp_path: Path) -> None:
    path = files("keras").file("float32")
    with pytest.raises(UsageError, match="'keras'; leave out --gating auto"):
        pipeline.convert(None, path, gating="auto", out=tmp_path, parity=None)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("float32", "kernels in float32; activations in float32"),
        ("float16", "kernels in float16; activations in float32"),
        ("dynamic", "kernels in 8 bits and .* kernels in float32; activations in float32"),
        ("int8", "kernels in 8 bits; activations quantized too"),
    ],
)
def test_inspect_says_what_is_lost(kind: str, said: str, files: Files) -> None:
    found = inspect(files("keras").file(kind))
    assert (found.layout, found.variants) == ("tflite", ("t0-stream",))
    assert (found.gating, found.head_activation) == ("keras", "hard_swish")
    precision, normalisation = found.notes
    assert re.search(said, precision)
    assert "normalisation was folded" in normalisation


def test_unit_normalisation_computes_nothing(files: Files) -> None:
    variables = open_checkpoint(files("keras").file("float32")).variables
    norm = "head/_project/_batch_norm"
    scale = variables[f"{norm}/gamma"] / np.sqrt(
        variables[f"{norm}/moving_variance"] + np.float32(1e-3)
    )
    assert scale.dtype == np.float32
    assert (scale == 1).all()
    assert not variables[f"{norm}/moving_mean"].any()
