"""``load_exported``: a file does in its runtime what the eager model does, states included."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from movinet_convert import load_exported
from movinet_convert.errors import (
    ExportError,
    MissingExtraError,
    MovinetWarning,
    StateError,
    UsageError,
)
from movinet_convert.export import (
    FORMATS,
    ExportedModel,
    ExportReport,
    export_model,
    torch_export,
)
from movinet_convert.export.exported import SUFFIXES
from movinet_convert.export.runtime import Job
from movinet_convert.export.step import step_program
from movinet_convert.model import MoViNet
from movinet_convert.model.input_check import RangeCheck
from movinet_convert.model.transforms import ClipTransform
from movinet_convert.video.frames import Sampling
from movinet_convert.video.predict import Predictor, load_predictor
from tests.export.conftest import LABELS, SIZE, require_runtime
from tests.helpers.colour_model import write_colours

pytestmark = pytest.mark.usefixtures("short_t0")

TOLERANCE = 1e-4  # relative to the std of the logits
Open = Callable[[str], ExportedModel]


@pytest.fixture(scope="module")
def opened(step_file: Callable[[str], ExportReport]) -> Open:
    """The frame step of a format, opened once."""

    @functools.cache
    def open_step(format: str) -> ExportedModel:
        path = step_file(format).path
        threads = None if format == "saved-model" else 1  # TensorFlow's are fixed once it runs
        return load_exported(path, threads, trusted=FORMATS[format].compiled)

    return open_step


def video(frames: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, frames, *SIZE, generator=torch.Generator().manual_seed(seed))


def require_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < TOLERANCE * expected.std()


@torch.no_grad()
def two_videos_in_turn(model: MoViNet | ExportedModel) -> dict[str, Tensor]:
    """Logits of two videos in turn, the first of which goes back to a state that was kept."""
    one, other = video(3).split(1, dim=2), video(3, seed=1).split(1, dim=2)
    logits, state, beside, kept = {}, None, None, None
    for i in range(3):
        kept = state if i == 2 else kept
        logits[f"one {i}"], state = model.stream(one[i], state)
        logits[f"other {i}"], beside = model.stream(other[i], beside)
    logits["replayed"], _ = model.stream(one[2], kept)
    logits["another way"], _ = model.stream(other[0], kept)
    logits["replayed again"], _ = model.stream(one[2], kept)
    logits["restarted"], _ = model.stream(one[0], None)
    return logits


@pytest.mark.parametrize("format", FORMATS)
def test_states_can_be_kept_replayed_and_alternated(
    format: str, opened: Open, stream_model: MoViNet
) -> None:
    found, expected = two_videos_in_turn(opened(format)), two_videos_in_turn(stream_model)
    for name, logits in expected.items():
        require_close(found[name], logits)
    for name in ("replayed", "replayed again"):
        assert torch.equal(found[name], found["one 2"])
    assert torch.equal(found["restarted"], found["one 0"])
    assert not torch.equal(found["another way"], found["replayed"])


@pytest.mark.parametrize("format", FORMATS)
def test_fifty_frames_agree_in_one_call_and_as_a_clip(
    format: str, opened: Open, stream_model: MoViNet
) -> None:
    clip = video(50)
    with torch.no_grad():
        expected, last = stream_model.stream(clip, per_frame=True)
    found, state = opened(format).stream(clip, per_frame=True)
    require_close(found, expected)
    assert torch.equal(opened(format)(clip), found[:, -1])
    assert state.frame_count.tolist() == [50]
    shapes = {name: tensor.shape for name, tensor in last.tensors()}
    assert {name: tensor.shape for name, tensor in state.tensors()} == shapes


@pytest.mark.parametrize("format", FORMATS)
def test_a_video_continues_from_a_state_of_the_eager_model_and_back(
    format: str, opened: Open, stream_model: MoViNet
) -> None:
    first, second, third = video(6).split(2, dim=2)
    with torch.no_grad():
        expected = stream_model(video(6))
        _, state = stream_model.stream(first)
        _, state = opened(format).stream(second, state)
        found, _ = stream_model.stream(third, state)
    require_close(found, expected)


@pytest.mark.parametrize("format", FORMATS)
def test_states_that_stay_in_the_runtime_are_not_mixed_up(format: str, opened: Open) -> None:
    model = opened(format)
    one, other = video(4), video(4, seed=1)
    a, b = (model.stream_video(clip.split(1, dim=2)) for clip in (one, other))
    with torch.inference_mode():
        found = [next(a), next(b)]
    found += [next(a), next(a), next(b)]
    between, _ = model.stream(video(2, seed=2))
    found += [next(b), next(a)]
    in_one, in_other = (model.stream(clip, per_frame=True)[0][0] for clip in (one, other))
    expected = [in_one[0], in_other[0], in_one[1], in_one[2], in_other[1], in_other[2], in_one[3]]
    assert torch.equal(torch.cat(found), torch.stack(expected))
    assert torch.equal(between, model(video(2, seed=2)))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video file of several colours, two seconds long."""
    return write_colours(tmp_path_factory.mktemp("video") / "a.mp4", "red", "blue", "white")


def predictor_of(model: MoViNet) -> Predictor:
    """The network, with frames of the size of the files."""
    return Predictor(model, LABELS, Sampling.of(model.variant, size=SIZE))


@pytest.mark.parametrize("format", FORMATS)
def test_predictions_of_a_video_are_those_of_the_network(
    format: str, opened: Open, stream_model: MoViNet, recording: Path
) -> None:
    found = load_predictor("unused", exported=opened(format)).moments(recording)
    for ours, theirs in zip(found, predictor_of(stream_model).moments(recording), strict=True):
        assert replace(ours, probabilities=theirs.probabilities) == theirs
        assert np.abs(ours.probabilities - theirs.probabilities).max() < TOLERANCE


def test_a_file_for_several_frames_predicts_after_each_call(
    stream_model: MoViNet, recording: Path, tmp_path: Path
) -> None:
    frames = 3
    path = export_model(stream_model, tmp_path, "torch-export", size=SIZE, frames=frames).path
    predictor = load_predictor(path, exported=load_exported(path))
    found = list(predictor.moments(recording))
    every = list(predictor_of(stream_model).moments(recording))
    assert len(every) % frames, "the last call is incomplete"
    assert len(found) == len(every) // frames
    for i, ours in enumerate(found):
        first, last = every[i * frames], every[(i + 1) * frames - 1]
        assert (ours.start, ours.end, ours.frames) == (first.start, last.end, last.frames)
        assert np.abs(ours.probabilities - last.probabilities).max() < TOLERANCE
    windows = list(replace(predictor, window=frames / predictor.fps).moments(recording))
    assert [(m.window, m.frames) for m in windows] == [(i, frames) for i in range(len(found))]
    assert np.array_equal(windows[0].probabilities, found[0].probabilities)
    with pytest.raises(UsageError, match="takes 3 at a time"):
        replace(predictor, window=(frames + 1) / predictor.fps)


def test_a_file_for_clips_of_one_length_predicts_for_each(
    base_model: MoViNet, recording: Path, tmp_path: Path
) -> None:
    require_runtime("executorch")
    path = export_model(base_model, tmp_path, "executorch", size=SIZE, frames=3).path
    predictor = load_predictor(path, exported=load_exported(path))
    expected = replace(predictor_of(base_model), window=3 / predictor.fps, shortest=3)
    found, wanted = (list(p.moments(recording)) for p in (predictor, expected))
    assert [(m.start, m.window, m.frames) for m in found] == [
        (m.start, m.window, 3) for m in wanted
    ]
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.abs(ours.probabilities - theirs.probabilities).max() < TOLERANCE
    with pytest.raises(UsageError, match="this file takes 3 at a time"):
        replace(predictor, window=6 / predictor.fps)


def test_frames_of_another_range_or_order_are_told_as_by_the_network(opened: Open) -> None:
    model = opened("torch-export")
    with pytest.warns(MovinetWarning, match=r"as if in 0\.\.255"):
        replaced(model)(255 * video(1))
    with pytest.raises(UsageError, match=r"before the channels: use clip\.transpose\(1, 2\)"):
        model(video(2).transpose(1, 2))


def replaced(model: ExportedModel) -> ExportedModel:
    """The model as if it were just opened: which calls are checked depends on their number."""
    model._range_check = RangeCheck()
    return model


def test_a_file_describes_itself(opened: Open, stream_model: MoViNet) -> None:
    model = opened("torch-export")
    assert model.variant == stream_model.variant
    assert model.settings == stream_model.settings
    assert model.labels == LABELS
    assert (model.format, model.frames, model.size) == ("torch-export", 1, SIZE)
    own = stream_model.variant.input
    assert model.transforms() == ClipTransform(48 * own.resize // own.size, SIZE)
    clip = model.transforms()(torch.zeros(2, 3, 120, 90, dtype=torch.uint8))
    assert model(clip[None]).shape == (1, len(LABELS))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 1, *SIZE), "one video of 34x48.*export for another size or batch"),
        ((1, 3, 1, 48, 34), r"one video of 34x48.*got shape \(1, 3, 1, 48, 34\)"),
        ((3, 1, *SIZE), "one video of 34x48"),
        ((1, 3, 0, *SIZE), "got 0"),
    ],
)
def test_other_shapes_are_rejected(shape: tuple[int, ...], message: str, opened: Open) -> None:
    model = opened("torch-export")
    for run in (model, model.stream):
        with pytest.raises(UsageError, match=message):
            run(torch.zeros(shape))
    with pytest.raises(UsageError, match="divide by 255"):
        model(video(1).byte())


def test_a_state_of_another_size_is_rejected(opened: Open, stream_model: MoViNet) -> None:
    state = stream_model.initial_state(1, 64, 64)
    with pytest.raises(StateError, match="these frames need"):
        opened("torch-export").stream(video(1), state)


@pytest.mark.parametrize("format", ["aot-inductor", "saved-model"])
def test_code_must_be_trusted(format: str, step_file: Callable[[str], ExportReport]) -> None:
    with pytest.raises(ExportError, match="open it with trusted=True"):
        load_exported(step_file(format).path)


def test_a_saved_model_without_metadata_is_rejected(
    step_file: Callable[[str], ExportReport], tmp_path: Path
) -> None:
    path = shutil.copytree(step_file("saved-model").path, tmp_path / "saved")
    shutil.rmtree(path / "assets.extra")
    with pytest.raises(ExportError, match="did not write it as saved-model; export it again"):
        load_exported(path, trusted=True)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_a_file_that_is_no_export_is_rejected(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"notes{suffix}"
    with pytest.raises(UsageError, match="There is no file"):
        load_exported(path)
    path.write_text("A list of things to do.\n" * 100)
    with pytest.raises(ExportError, match=rf"notes{suffix} cannot be opened: .*export it again"):
        load_exported(path, trusted=True)


@pytest.mark.parametrize("format", ["onnx", "openvino", "executorch", "tflite"])
def test_a_damaged_file_is_rejected(
    format: str, step_file: Callable[[str], ExportReport], tmp_path: Path
) -> None:
    for file in step_file(format).files:
        (tmp_path / file.name).write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ExportError, match="cannot be opened"):
        load_exported(tmp_path / step_file(format).path.name)


@pytest.mark.parametrize("format", ["litert", "tflite"])
def test_metadata_of_another_size_than_the_signature_are_rejected(
    format: str, step_file: Callable[[str], ExportReport], tmp_path: Path
) -> None:
    content = step_file(format).path.read_bytes()
    size, other = (f", {height}, {SIZE[1]}]".encode() for height in (SIZE[0], SIZE[0] + 1))
    assert size in content
    path = tmp_path / "other.tflite"
    path.write_bytes(content.replace(size, other))
    with pytest.raises(ExportError, match="a signature that export did not write"):
        load_exported(path)


def test_weights_of_openvino_that_are_missing_are_reported(
    step_file: Callable[[str], ExportReport], tmp_path: Path
) -> None:
    path = shutil.copy(step_file("openvino").path, tmp_path)
    with pytest.raises(ExportError, match="cannot be opened"):
        load_exported(path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a", "a0-stream"])
def test_other_names_are_rejected(name: str, tmp_path: Path) -> None:
    advice = (
        "load_converted"
        if name.endswith("safetensors")
        else r"\.pt2, \.onnx, \.xml, \.pte or \.tflite"
    )
    with pytest.raises(UsageError, match=advice):
        load_exported(tmp_path / name)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_at_least_one(threads: int, step_file: Callable[[str], ExportReport]) -> None:
    with pytest.raises(UsageError, match="threads is a number of at least 1"):
        load_exported(step_file("torch-export").path, threads)


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [
        ("onnx", "onnx", "export"),
        ("openvino", "openvino", "export"),
        ("executorch", "executorch", "export"),
        ("tflite", "ai_edge_litert", "export"),
        ("saved-model", "tensorflow", "tf"),
    ],
)
def test_a_missing_runtime_names_its_extra(
    format: str,
    package: str,
    extra: str,
    step_file: Callable[[str], ExportReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = step_file(format).path
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"Running .* needs the extra \[{extra}\]"):
        load_exported(path, trusted=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "a9-stream"}, "no MoViNet variant 'a9-stream'"),
        ({"variant": "a0-stream"}, "inputs are not those of a0-stream"),
        ({"num_classes": 2}, "10 labels for 2 classes"),
        ({"labels": None, "num_classes": 0}, "num_classes"),
        ({"settings": {"causal": True}}, "settings"),
        ({"inputs": []}, "inputs are not those"),
    ],
)
def test_metadata_that_do_not_fit_are_rejected(
    changes: dict[str, object],
    message: str,
    stream_model: MoViNet,
    step_file: Callable[[str], ExportReport],
    tmp_path: Path,
) -> None:
    described = json.loads(torch_export.read_metadata(step_file("torch-export").path))
    path = tmp_path / "other.pt2"
    torch_export.convert(Job(step_program(stream_model, 1, SIZE)))(
        path, json.dumps({**described, **changes})
    )
    with pytest.raises(ExportError, match=message):
        load_exported(path)
