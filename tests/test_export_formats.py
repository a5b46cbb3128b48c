"""Every format's file, run in its own runtime, computes what the eager model does."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from movinet_convert.errors import ParityError, UsageError
from movinet_convert.export import (
    FORMATS,
    executorch,
    export_model,
    onnx,
    openvino,
    torch_export,
)
from movinet_convert.export.flat_step import flat_program
from movinet_convert.export.report import Agreement, require_agreement
from movinet_convert.export.step import step_program
from movinet_convert.model import MoViNet
from movinet_convert.model.fuse import fuse
from tests.settled import settled_model

SIZE = (34, 48)  # neither square nor odd nor a multiple of 32
MODULES = {
    "torch-export": torch_export,
    "onnx": onnx,
    "openvino": openvino,
    "executorch": executorch,
}
NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "executorch": ("executorch",),
}


def require_runtime(format: str) -> None:
    for package in NEEDS.get(format, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{format} needs {package}, of the extra [export]")


@pytest.fixture(scope="module")
def stream_model() -> MoViNet:
    return settled_model("t0-stream")


@pytest.fixture(scope="module")
def base_model() -> MoViNet:
    return settled_model("t0-base")


@pytest.mark.parametrize("format", MODULES)
def test_a_frame_step_agrees_over_twenty_frames(
    format: str, stream_model: MoViNet, tmp_path: Path
) -> None:
    require_runtime(format)
    report = export_model(
        stream_model, tmp_path / "step", format, size=SIZE, labels=list("abcdefghij")
    )
    assert report.frames_checked == 20
    assert report.deviation < 1e-4
    assert report.agreement == 1.0
    assert report.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    told = json.loads(MODULES[format].read_metadata(report.path))
    assert (told["variant"], told["num_classes"]) == ("t0-stream", 10)
    assert told["labels"] == list("abcdefghij")
    assert told["inputs"][0] == {"name": "frames", "shape": [1, 3, 1, *SIZE], "dtype": "float32"}
    states = [entry["name"] for entry in told["inputs"][1:]]
    assert told["outputs"] == ["logits", *(f"{name}.next" for name in states)]


@pytest.mark.parametrize("format", ["torch-export", "onnx", "openvino"])
def test_a_base_model_takes_clips_of_any_number_of_frames(
    format: str, base_model: MoViNet, tmp_path: Path
) -> None:
    require_runtime(format)
    report = export_model(base_model, tmp_path / "clip", format, frames=6, size=SIZE)
    run = MODULES[format].open_file(report.path)
    for frames in (4, 9):
        clip = torch.rand(1, 3, frames, *SIZE)
        with torch.no_grad():
            expected = base_model(clip)
        assert (run([clip])[0] - expected).abs().max() < 1e-4 * expected.std()


def test_a_step_of_several_frames_equals_single_frames(stream_model: MoViNet) -> None:
    fused = fuse(stream_model)
    clip = torch.rand(1, 3, 3, *SIZE)
    with torch.no_grad():
        expected, _ = fused.stream(clip)
        for build in (step_program, flat_program):
            program = build(fused, 3, SIZE)
            logits, *_ = program.module(clip, *program.example[1:])
            assert (logits - expected).abs().max() < 1e-4 * expected.std()


def test_the_flat_step_follows_positional_encoding_and_odd_sizes() -> None:
    fused = fuse(settled_model("a3-stream"))
    size = (33, 46)
    program = flat_program(fused, 1, size)
    states, state = program.example[1:], None
    with torch.no_grad():
        for _ in range(3):
            frame = torch.rand(1, 3, 1, *size)
            logits, *states = program.module(frame, *states)
            expected, state = fused.stream(frame, state)
            assert (logits - expected).abs().max() < 1e-4 * expected.std()
    assert state is not None
    for (name, tensor), flat in zip(state.tensors(), states, strict=True):
        assert torch.allclose(tensor.flatten(), flat.flatten(), rtol=1e-3, atol=1e-3), name


def test_executorch_hands_the_step_to_xnnpack_in_one_piece(
    stream_model: MoViNet, tmp_path: Path
) -> None:
    require_runtime("executorch")
    report = export_model(stream_model, tmp_path / "step", "executorch", size=SIZE)
    assert report.details["delegates"] == 1


def test_dynamic_quantization_reports_its_loss(stream_model: MoViNet, tmp_path: Path) -> None:
    require_runtime("onnx")
    report = export_model(stream_model, tmp_path / "step", "onnx", size=SIZE, quantize="dynamic")
    assert report.quantize == "dynamic"
    assert 0.0 < report.deviation < 1.0


def test_half_weights_report_their_loss(stream_model: MoViNet, tmp_path: Path) -> None:
    require_runtime("openvino")
    full = export_model(stream_model, tmp_path / "full", "openvino", size=SIZE)
    half = export_model(stream_model, tmp_path / "half", "openvino", size=SIZE, dtype="float16")
    assert half.bytes < 0.75 * full.bytes
    assert full.deviation < half.deviation < 0.3


@pytest.mark.parametrize("deviation", [1e-3, float("nan")])
def test_a_file_that_disagrees_is_refused(deviation: float) -> None:
    with pytest.raises(ParityError, match="differs from the eager model"):
        require_agreement(Agreement(20, deviation, 1.0), "t0-stream (onnx)")


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("flatpack", {}, "no export format"),
        ("executorch", {"dtype": "float16"}, "not as float16"),
        ("torch-export", {"quantize": "int8"}, "cannot quantize"),
        ("onnx", {"quantize": "int8"}, "calibration clips"),
    ],
)
def test_what_a_format_cannot_do_is_said(
    stream_model: MoViNet, tmp_path: Path, format: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_model(stream_model, tmp_path / "x", format, size=SIZE, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_executorch_explains_that_it_has_no_base_models(
    base_model: MoViNet, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="export t0-stream"):
        export_model(base_model, tmp_path / "x", "executorch", size=SIZE)


def test_every_format_is_in_the_table() -> None:
    assert MODULES.keys() <= FORMATS.keys()
