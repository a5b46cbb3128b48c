"""SavedModel and TFLite files compute what the network does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from movinet_convert import create_model, load_converted, save_weights
from movinet_convert.conversion.sources import given
from movinet_convert.conversion.tensors import convert_checkpoint
from movinet_convert.errors import UsageError
from movinet_convert.export import export_model, load_exported
from movinet_convert.model.fuse import fuse
from movinet_convert.parity.cases import random_clips
from tests.helpers.short_archs import short_archs

if TYPE_CHECKING:
    from pathlib import Path

    from movinet_convert.model import MoViNet

FRAMES, SIZE = 20, 48
TOLERANCE = 1e-4  # relative to the std of the logits


@pytest.fixture(scope="module", autouse=True)
def short_t0() -> Iterator[None]:
    with short_archs("t0"):
        yield


def fine_tuned(name: str, gating: str | None, folder: Path) -> MoViNet:
    """A few steps of training, saved and loaded."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, gating=gating)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("scale"):
                parameter.fill_(0.5)
        model.classifier.output.weight.normal_(std=0.1)
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.momentum = 0.5  # statistics settle within these few steps
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for seed in range(4):
        clip = torch.from_numpy(random_clips(3, 3, SIZE, SIZE, seed=seed))
        F.cross_entropy(model(clip), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
        optimizer.zero_grad()
    return load_converted(save_weights(model, folder / "tuned.safetensors"))


@torch.no_grad()
def frame_by_frame(model: MoViNet, video: np.ndarray) -> np.ndarray:
    rows, state = [], None
    for i in range(video.shape[2]):
        logits, state = model.stream(torch.from_numpy(video[:, :, i : i + 1]), state)
        rows.append(logits.numpy()[0])
    return np.stack(rows)


def image(video: np.ndarray, i: int) -> np.ndarray:
    return np.ascontiguousarray(video[:, :, i : i + 1].transpose(0, 2, 3, 4, 1))


def run_signature(call: Any, details: dict[str, Any], video: np.ndarray) -> np.ndarray:
    states = {
        name: np.zeros(tensor["shape"], tensor["dtype"])
        for name, tensor in details.items()
        if name != "image"
    }
    rows = []
    for i in range(video.shape[2]):
        outputs = call(image=image(video, i), **states)
        rows.append(outputs["logits"].reshape(-1))
        states = {name: outputs[name] for name in states}
    return np.stack(rows)


def test_tflite_agrees_frame_by_frame(tmp_path: Path) -> None:
    import tensorflow as tf

    model = fine_tuned("t0-stream", "keras", tmp_path)
    path = export_model(model, tmp_path / "out" / "tuned", "tflite", size=(SIZE, SIZE)).path
    interpreter = tf.lite.Interpreter(str(path))
    runner = interpreter.get_signature_runner()
    video = random_clips(1, FRAMES, SIZE, SIZE, seed=9)
    theirs = run_signature(runner, runner.get_input_details(), video)
    ours = frame_by_frame(model, video)
    assert theirs.shape == ours.shape == (FRAMES, 5)
    assert np.abs(theirs - ours).max() <= TOLERANCE * ours.std()
    assert [p.name for p in path.parent.iterdir()] == ["tuned.tflite"]
    read_back = convert_checkpoint(given(path)).to_model()
    assert np.abs(frame_by_frame(read_back, video) - ours).max() <= TOLERANCE * ours.std()


def test_a_saved_model_takes_clips_of_any_size(tmp_path: Path) -> None:
    import tensorflow as tf

    model = fine_tuned("t0-base", None, tmp_path)
    path = export_model(model, tmp_path / "saved", "saved-model", size=(SIZE, SIZE)).path
    saved = tf.saved_model.load(str(path))
    video = random_clips(1, 3, 32, 40, seed=9)
    inputs = np.ascontiguousarray(video.transpose(0, 2, 3, 4, 1))
    (logits,) = saved.signatures["serving_default"](image=tf.constant(inputs)).values()
    clip = torch.from_numpy(video)
    with torch.no_grad():
        ours = model(clip)
    for theirs in (torch.from_numpy(logits.numpy()), load_exported(path, trusted=True)(clip)):
        assert (theirs.reshape(ours.shape) - ours).abs().max() <= TOLERANCE * ours.std()


def test_a_saved_model_is_not_written_into_a_folder_with_files(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    model = create_model("t0-base", num_classes=3).eval()
    with pytest.raises(UsageError, match="not an empty folder"):
        export_model(model, tmp_path, "saved-model")


def test_a_fused_model_is_rejected(tmp_path: Path) -> None:
    model = fuse(create_model("t0-stream", num_classes=3, gating="keras").eval())
    with pytest.raises(UsageError, match="without fuse=True"):
        export_model(model, tmp_path / "x", "tflite", size=(SIZE, SIZE))
    assert not list(tmp_path.iterdir())
