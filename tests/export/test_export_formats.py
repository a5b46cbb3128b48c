"""Every format's file, run in its own runtime, computes what the eager model does."""

import copy
import functools
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from movinet_convert.errors import ExportError, UsageError
from movinet_convert.export import (
    FORMATS,
    ExportReport,
    aot_inductor,
    executorch,
    export_model,
    litert,
    load_exported,
    onnx,
    openvino,
    saved_model,
    tflite,
    torch_export,
    transformers_folder,
)
from movinet_convert.export.agreement import FLOORS, measure, moving_clips, require_floor
from movinet_convert.export.flat_step import (
    flat_program,
    litert_program,
    openvino_program,
    xnnpack_program,
)
from movinet_convert.export.metadata import metadata
from movinet_convert.export.quantization.fake import rounded
from movinet_convert.export.runtime import Job
from movinet_convert.export.step import Program, clip_program, step_program
from movinet_convert.model import MoViNet
from movinet_convert.model.attention import SqueezeExcitation
from movinet_convert.model.fuse import fuse
from tests.export.conftest import SIZE, require_runtime
from tests.helpers.settled import settled_model

pytestmark = pytest.mark.usefixtures("short_t0")

Build = Callable[[MoViNet, int, tuple[int, int]], Program]
MODULES = {
    "torch-export": torch_export,
    "aot-inductor": aot_inductor,
    "onnx": onnx,
    "openvino": openvino,
    "executorch": executorch,
    "litert": litert,
    "transformers": transformers_folder,
    "tflite": tflite,
    "saved-model": saved_model,
}


def test_a_model_in_training_mode_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.eval\(\)"):
        export_model(settled_model("t0-stream").train(), tmp_path / "m", "torch-export", size=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", MODULES)
def test_a_frame_step_agrees_with_the_eager_model_over_twenty_frames(
    format: str, step_file: Callable[[str], ExportReport]
) -> None:
    report = step_file(format)
    assert report.agreement.frames == 20
    assert report.agreement.deviation < 1e-4
    assert report.agreement.top1 == 1.0
    written = [file for file in report.path.parent.rglob("*") if file.is_file()]
    assert report.bytes == sum(file.stat().st_size for file in written)
    described = json.loads(MODULES[format].read_metadata(report.path))
    assert (described["variant"], described["num_classes"]) == ("t0-stream", 10)
    assert described["labels"] == list("abcdefghij")
    assert described["inputs"][0] == {
        "name": "frames",
        "shape": [1, 3, 1, *SIZE],
        "dtype": "float32",
    }
    states = [entry["name"] for entry in described["inputs"][1:]]
    assert described["outputs"] == ["logits", *(f"{name}.next" for name in states)]


@torch.no_grad()
def test_a_compiled_package_accepts_its_own_states_without_a_copy(
    stream_model: MoViNet, step_file: Callable[[str], ExportReport]
) -> None:
    """The runtime reads memory in a fixed order and would not notice another one."""
    report = step_file("aot-inductor")
    package = torch._inductor.aoti_load_package(str(report.path))
    described = json.loads(aot_inductor.read_metadata(report.path))
    states = [torch.zeros(entry["shape"]) for entry in described["inputs"][2:]]
    states = [torch.zeros(1, dtype=torch.long), *states]
    state = None
    for _ in range(4):
        frame = torch.rand(1, 3, 1, *SIZE)
        logits, *states = package(frame, *states)
        assert all(tensor.is_contiguous() for tensor in states)
        expected, state = stream_model.stream(frame, state)
        assert (logits - expected).abs().max() < 1e-4 * expected.std()


def test_a_missing_compiler_raises_a_clear_error(stream_model: MoViNet, tmp_path: Path) -> None:
    from torch._inductor import config

    without = config.patch({"cpp.cxx": ("no-such-compiler",)})
    with without, pytest.raises(ExportError, match=r"install g\+\+"):
        export_model(stream_model, tmp_path / "step", "aot-inductor", size=SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["torch-export", "aot-inductor", "onnx", "openvino"])
def test_a_base_model_accepts_clips_of_any_number_of_frames(
    format: str, base_model: MoViNet, tmp_path: Path
) -> None:
    require_runtime(format)
    report = export_model(base_model, tmp_path / "clip", format, frames=6, size=SIZE)
    exported = load_exported(report.path, trusted=True)
    for frames in (4, 9):
        clip = torch.rand(1, 3, frames, *SIZE)
        with torch.no_grad():
            expected = base_model(clip)
        assert (exported(clip) - expected).abs().max() < 1e-4 * expected.std()
    with pytest.raises(UsageError, match="takes clips of 2 to 1024 frames; got 1"):
        exported(torch.rand(1, 3, 1, *SIZE))
    with pytest.raises(UsageError, match="cannot stream"):
        exported.stream(clip)


def test_a_step_of_several_frames_equals_single_frames(stream_model: MoViNet) -> None:
    fused = fuse(stream_model)
    clip = torch.rand(1, 3, 3, *SIZE)
    with torch.no_grad():
        expected, _ = fused.stream(clip)
        for build in (
            *(step_program, flat_program, litert_program, openvino_program, xnnpack_program),
        ):
            program = build(fused, 3, SIZE)
            logits, *_ = program.module(clip, *program.example[1:])
            assert (logits - expected).abs().max() < 1e-4 * expected.std()


@pytest.mark.parametrize("build", [flat_program, litert_program, openvino_program, xnnpack_program])
def test_the_flat_step_handles_positional_encoding_and_odd_sizes(build: Build) -> None:
    fused = fuse(settled_model("a3-stream"))
    size = (33, 46)
    program = build(fused, 1, size)
    states, state = program.example[1:], None
    with torch.no_grad():
        for _ in range(3):
            frame = torch.rand(1, 3, 1, *size)
            logits, *states = program.module(frame, *states)
            expected, state = fused.stream(frame, state)
            assert (logits - expected).abs().max() < 1e-4 * expected.std()
    assert state is not None
    for (name, tensor), flat in zip(state.tensors(), states, strict=True):
        if (
            build in (litert_program, openvino_program) and tensor.dim() == 5
        ):  # channels last by its shape
            tensor = tensor.permute(0, 2, 3, 4, 1)
        assert torch.allclose(tensor.flatten(), flat.flatten(), rtol=1e-3, atol=1e-3), name


def test_executorch_delegates_the_whole_step_to_xnnpack(
    step_file: Callable[[str], ExportReport],
) -> None:
    assert step_file("executorch").details["delegates"] == 1


def test_dynamic_quantization_shrinks_the_file_and_reports_its_loss(
    stream_model: MoViNet, step_file: Callable[[str], ExportReport], tmp_path: Path
) -> None:
    full = step_file("onnx")
    report = export_model(stream_model, tmp_path / "step", "onnx", size=SIZE, quantize="dynamic")
    assert report.quantize == "dynamic"
    assert report.bytes < 0.7 * full.bytes
    assert full.agreement.mean_error < report.agreement.mean_error <= FLOORS["dynamic"].mean_error


@pytest.mark.parametrize(
    ("format", "size"), [("litert", 0.4), ("onnx", 0.45), ("openvino", 0.5)]
)  # weights are few in so small a network, and operators many
def test_8_bit_weights_shrink_a_file_and_report_their_loss(
    format: str,
    size: float,
    stream_model: MoViNet,
    step_file: Callable[[str], ExportReport],
    tmp_path: Path,
) -> None:
    full = step_file(format)
    report = export_model(
        stream_model,
        tmp_path / "step",
        format,
        size=SIZE,
        quantize="weights",
        allow_loss=0.04,  # random weights lose more than trained ones
    )
    assert report.bytes < size * full.bytes
    assert full.agreement.mean_error < report.agreement.mean_error


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_files_of_8_bit_weights_compute_with_the_same_numbers(
    format: str, stream_model: MoViNet, base_model: MoViNet, tmp_path: Path
) -> None:
    """In float, and up to its rounding: each convolution and matrix product is found and scaled."""
    require_runtime(format)
    for model, build, clip in (
        (stream_model, FORMATS[format].program, torch.rand(1, 3, 1, *SIZE)),
        (base_model, clip_program, torch.rand(1, 3, 6, *SIZE)),
    ):
        path = tmp_path / f"{model.variant.name}{FORMATS[format].suffix}"
        program = build(fuse(model), clip.shape[2], SIZE)
        expected, *_ = rounded(program)[0].module(clip, *program.example[1:])
        save = MODULES[format].convert(Job(program, quantize="weights"))
        save(path, json.dumps(metadata(model, program, None)))
        assert (load_exported(path)(clip) - expected).abs().max() < 1e-4 * expected.std()


def test_a_litert_file_in_int8_computes_its_convolutions_in_8_bits(
    stream_model: MoViNet, step_file: Callable[[str], ExportReport], tmp_path: Path
) -> None:
    full = step_file("litert")
    report = export_model(
        stream_model,
        tmp_path / "step",
        "litert",
        size=SIZE,
        quantize="int8",
        calibration=moving_clips(step_program(stream_model, 1, SIZE), causal=True),
        allow_loss=FLOORS["int8"].mean_error,
    )
    assert report.bytes < 0.4 * full.bytes
    assert report.agreement.correlation >= FLOORS["int8"].correlation
    assert report.details["8-bit convolutions"] >= 5


@pytest.fixture(scope="module")
def write_int8(stream_model: MoViNet) -> Callable[..., ExportReport]:
    """Write the step in int8, calibrated with clips like those of videos."""
    require_runtime("openvino")
    clips = moving_clips(step_program(stream_model, 1, SIZE), causal=True)
    return functools.partial(
        export_model,
        stream_model,
        format="openvino",
        size=SIZE,
        quantize="int8",
        calibration=clips,
    )


@pytest.fixture(scope="module")
def int8_file(
    write_int8: Callable[..., ExportReport], tmp_path_factory: pytest.TempPathFactory
) -> ExportReport:
    """Held to the floors of ``int8`` but the top class, which is random in random weights."""
    path = tmp_path_factory.mktemp("int8") / "step"
    return write_int8(path=path, allow_loss=FLOORS["int8"].mean_error)


def test_int8_agrees_with_the_float_model_and_records_its_loss(
    step_file: Callable[[str], ExportReport], int8_file: ExportReport
) -> None:
    floor, agreement = FLOORS["int8"], int8_file.agreement
    assert int8_file.bytes < 0.5 * step_file("openvino").bytes
    assert agreement.correlation >= floor.correlation
    assert agreement.mean_error <= floor.mean_error
    assert agreement.clips == 2  # those that it was not calibrated with
    measured = json.loads(openvino.read_metadata(int8_file.path))["measured"]
    assert (measured["kind"], measured["allow_loss"]) == ("int8", floor.mean_error)
    assert measured["mean_error"] == agreement.mean_error


def test_int8_of_a_base_variant_agrees_with_the_float_model(
    base_model: MoViNet, tmp_path: Path
) -> None:
    require_runtime("openvino")
    clips = moving_clips(clip_program(base_model, 6, SIZE), causal=False)
    report = export_model(
        base_model,
        tmp_path / "clip",
        "openvino",
        frames=6,
        size=SIZE,
        quantize="int8",
        calibration=clips,
        allow_loss=FLOORS["int8"].mean_error,
    )
    assert report.details["8-bit convolutions"] >= 5
    assert report.agreement.correlation >= FLOORS["int8"].correlation


def test_openvino_computes_convolutions_in_integers(int8_file: ExportReport) -> None:
    import openvino as library

    compiled = library.Core().compile_model(str(int8_file.path), "CPU")
    operators = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    convolutions = [o for o in operators if o["layerType"].astype(str) == "Convolution"]
    integer = [o for o in convolutions if o["runtimePrecision"].astype(str) in ("u8", "i8")]
    assert len(integer) == int8_file.details["8-bit convolutions"] >= 5


def test_onnx_runtime_computes_convolutions_in_integers(
    write_int8: Callable[..., ExportReport], tmp_path: Path
) -> None:
    require_runtime("onnx")
    import onnx as library
    import onnxruntime

    report = write_int8(path=tmp_path / "step", format="onnx", allow_loss=FLOORS["int8"].mean_error)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(report.path), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in library.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == report.details["8-bit convolutions"] >= 5


def test_onnx_has_no_int8_for_base_variants(base_model: MoViNet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="onnx has no int8 for base variants; .*openvino"):
        export_model(base_model, tmp_path / "clip", "onnx", quantize="int8")


def roll_channels(layer: str) -> Callable[[MoViNet], None]:
    def change(model: MoViNet) -> None:
        weight = model.get_parameter(layer)
        weight.copy_(weight.roll(1, 0))

    return change


def open_gates(model: MoViNet) -> None:
    for module in model.modules():
        if isinstance(module, SqueezeExcitation):
            module.gate = torch.ones_like


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(roll_channels("classifier.output.weight"), id="classes"),
        pytest.param(roll_channels("stem.conv.weight"), id="first channels"),
        pytest.param(open_gates, id="gating"),
    ],
)
def test_a_wrong_network_fails_the_int8_floor(
    change: Callable[[MoViNet], None], stream_model: MoViNet, int8_file: ExportReport
) -> None:
    """Nor does it stay within the error that the file of the right network was written with."""
    wrong = copy.deepcopy(stream_model)
    with torch.no_grad():
        change(wrong)
    program = step_program(stream_model, 1, SIZE)
    clips = moving_clips(program, causal=True)[:1]  # not one that it was calibrated with
    agreement = measure(load_exported(int8_file.path, threads=1), wrong, clips)
    assert agreement.correlation < FLOORS["int8"].correlation
    for allow_loss in (None, FLOORS["int8"].mean_error):
        with pytest.raises(ExportError, match="does not agree"):
            require_floor(agreement, "it", "int8", allow_loss)


def test_int8_that_loses_too_much_is_not_written(
    write_int8: Callable[..., ExportReport], int8_file: ExportReport, tmp_path: Path
) -> None:
    bright = torch.rand(1, 3, 6, *SIZE, generator=torch.Generator().manual_seed(0))
    dark = 0.01 * bright  # calibrated on these alone, the held-out first clip saturates
    with pytest.raises(ExportError, match=r"where int8 must reach 98%, 0.99 and .*more clips"):
        write_int8(path=tmp_path / "step", calibration=[bright, dark, dark, dark])
    with pytest.raises(ExportError, match="was allowed; nothing was written"):
        write_int8(path=tmp_path / "step", allow_loss=0.9 * int8_file.agreement.mean_error)
    assert not list(tmp_path.iterdir())


def test_a_step_of_several_frames_is_checked_over_twenty_frames(
    stream_model: MoViNet, tmp_path: Path
) -> None:
    report = export_model(stream_model, tmp_path, "torch-export", size=SIZE, frames=3)
    assert report.path == tmp_path / "t0-stream.pt2"
    assert report.agreement.frames == 21
    assert report.agreement.deviation < 1e-4
    exported, clip = load_exported(report.path), torch.rand(1, 3, 6, *SIZE)
    with torch.no_grad():
        expected = stream_model(clip)
    assert (exported(clip) - expected).abs().max() < 1e-4 * expected.std()
    with pytest.raises(UsageError, match="3 frames in one call, or a multiple of them; got 4"):
        exported(clip[:, :, :4])
    with pytest.raises(UsageError, match="with frames=1"):
        exported.stream(clip, per_frame=True)


@pytest.mark.parametrize("format", ["litert", "openvino", "torch-export"])
def test_half_precision_weights_report_their_loss(
    format: str, stream_model: MoViNet, step_file: Callable[[str], ExportReport], tmp_path: Path
) -> None:
    full = step_file(format)
    half = export_model(stream_model, tmp_path / "half", format, size=SIZE, dtype="float16")
    assert half.bytes < 0.85 * full.bytes
    assert full.agreement.mean_error < half.agreement.mean_error <= FLOORS["float16"].mean_error
    described = json.loads(MODULES[format].read_metadata(half.path))
    assert described["measured"]["mean_error"] == half.agreement.mean_error
    assert load_exported(half.path).variant.name == described["variant"] == "t0-stream"


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("flatpack", {}, "no export format"),
        ("executorch", {"dtype": "float16"}, "not as float16"),
        ("torch-export", {"quantize": "int8"}, "cannot quantize"),
        ("openvino", {"quantize": "int8"}, "calibration clips"),
        ("onnx", {"quantize": "int8"}, "calibration clips"),
        ("onnx", {"allow_loss": 0.1}, "for quantized and half-precision"),
        ("onnx", {"quantize": "dynamic", "allow_loss": float("nan")}, "a positive number"),
        ("onnx", {"labels": ["one", "two"]}, "2 labels were given for 10 classes"),
    ],
)
def test_unsupported_options_are_rejected(
    stream_model: MoViNet, tmp_path: Path, format: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_model(stream_model, tmp_path / "x", format, size=SIZE, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["tflite"])
def test_a_format_without_3d_convolutions_rejects_base_models_with_an_alternative(
    format: str, base_model: MoViNet, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="export t0-stream, or choose torch-export.*saved-model"):
        export_model(base_model, tmp_path / "x", format, size=SIZE)


def test_every_format_is_tested() -> None:
    assert {name: row.runtime for name, row in FORMATS.items()} == MODULES


def test_a_full_disk_is_reported(stream_model: MoViNet, tmp_path: Path) -> None:
    (tmp_path / "step.pt2").write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(ExportError, match=r"could not be written into .* MB are free there"):
            export_model(stream_model, tmp_path / "step", "torch-export", size=SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step.pt2"]
    assert (tmp_path / "step.pt2").read_text() == "before"


def test_the_next_export_removes_temporary_files_of_a_killed_one(
    stream_model: MoViNet, tmp_path: Path
) -> None:
    left = tmp_path / ".movinet-export-01234567"
    left.mkdir()
    (left / "network.pt2").write_text("half")
    (tmp_path / ".movinet-export-mine").mkdir()
    export_model(stream_model, tmp_path / "v1.2", "torch-export", size=SIZE)
    assert {path.name for path in tmp_path.iterdir()} == {"v1.2.pt2", ".movinet-export-mine"}


def test_onnx_external_data_is_rejected(
    step_file: Callable[[str], ExportReport], tmp_path: Path
) -> None:
    import onnx as library

    proto = library.load(str(step_file("onnx").path))
    tensor = next(t for t in proto.graph.initializer if len(t.raw_data) > 1000)
    (tmp_path / "secret").write_bytes(tensor.raw_data)
    library.external_data_helper.set_external_data(tensor, "secret")
    tensor.ClearField("raw_data")
    library.save(proto, str(tmp_path / "step.onnx"))
    with pytest.raises(ExportError, match="stores tensors in other files"):
        load_exported(tmp_path / "step.onnx")
