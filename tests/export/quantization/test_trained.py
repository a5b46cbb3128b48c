"""8-bit files of a network with really trained weights, from the folder MOVINET_CHECKPOINTS names.

The channels of random weights have similar ranges and their gates are near zero; trained ones show
what 8 bits cost.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from movinet_convert.conversion.sources import given
from movinet_convert.conversion.tensors import convert_checkpoint
from movinet_convert.export import export_model
from movinet_convert.export.agreement import moving_clips
from movinet_convert.export.step import step_program
from movinet_convert.model import MoViNet
from tests.export.conftest import require_runtime

SIZE = (96, 96)


@pytest.fixture(scope="module")
def trained() -> MoViNet:
    root = os.environ.get("MOVINET_CHECKPOINTS")
    folder = Path(root or "") / "movinet_a0_stream_cattle7"
    if not root or not folder.is_dir():
        pytest.skip("MOVINET_CHECKPOINTS holds no movinet_a0_stream_cattle7")
    converted = convert_checkpoint(given(folder), gating="model-garden", head_activation="swish")
    return converted.to_model()


@pytest.mark.parametrize(
    ("format", "quantize"),
    [("onnx", "weights"), ("openvino", "weights"), ("openvino", "int8"), ("onnx", "int8")],
)
def test_a_trained_network_reaches_the_floor_in_a_third_of_the_bytes(
    format: str, quantize: str, trained: MoViNet, tmp_path: Path
) -> None:
    require_runtime(format)
    clips = [clip.flip(2) for clip in moving_clips(step_program(trained, 1, SIZE), causal=True)]
    calibration = clips if quantize == "int8" else []
    report = export_model(  # which requires the floor
        trained, tmp_path / "step", format, size=SIZE, quantize=quantize, calibration=calibration
    )
    assert report.bytes < 0.35 * 4 * sum(tensor.numel() for tensor in trained.parameters())
