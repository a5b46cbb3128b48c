"""Files for several videos in a call."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from movinet_convert import load_exported
from movinet_convert.errors import StateError, UsageError
from movinet_convert.export import FORMATS, ExportedModel, export_model
from movinet_convert.model import MoViNet
from movinet_convert.model.stream_batch import StreamBatch
from tests.export.conftest import SIZE, require_runtime
from tests.export.test_exported import require_close

pytestmark = pytest.mark.usefixtures("short_t0")

BATCH = 3
# aot-inductor compiles for half a minute the same program as torch-export.
STREAMS = [name for name, row in FORMATS.items() if row.batches and name != "aot-inductor"]


@pytest.fixture(params=STREAMS)
def opened(request: pytest.FixtureRequest, stream_model: MoViNet, tmp_path: Path) -> ExportedModel:
    require_runtime(request.param)
    report = export_model(stream_model, tmp_path / "step", request.param, size=SIZE, batch=BATCH)
    assert report.agreement.frames == BATCH * 20
    return load_exported(report.path, 1, trusted=FORMATS[request.param].compiled)


def frame(video: int, t: int) -> Tensor:
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(100 * video + t))


def test_a_stream_batch_runs_more_and_fewer_videos_than_a_call_takes(
    opened: ExportedModel, stream_model: MoViNet
) -> None:
    batches = [StreamBatch(model, SIZE) for model in (opened, stream_model)]
    for video in range(2 * BATCH - 1):
        for batch in batches:
            batch.join(video)
    for t in range(3):
        given = {video: frame(video, t) for video in batches[0].keys if (video + t) % 4}
        found, expected = (batch.step(given) for batch in batches)
        require_close(*(torch.stack([each[key] for key in given]) for each in (found, expected)))
    video = torch.stack([frame(1, 3)[:, None]])
    require_close(
        opened.stream(video, batches[0].leave(1))[0],
        stream_model.stream(video, batches[1].leave(1))[0],
    )
    too_many = torch.stack([frame(video, 0)[:, None] for video in range(BATCH + 1)])
    with pytest.raises(UsageError, match=f"for up to {BATCH} videos of 34x48 at a time"):
        opened.stream(too_many)
    with pytest.raises(StateError, match="batch"):
        opened.stream(too_many[:1], opened.initial_state(2, *SIZE))


@pytest.mark.parametrize("format", ["torch-export", "onnx"])
def test_clips_of_a_base_variant(format: str, base_model: MoViNet, tmp_path: Path) -> None:
    require_runtime(format)
    report = export_model(base_model, tmp_path / "clip", format, size=SIZE, frames=4, batch=2)
    opened, clips = load_exported(report.path, 1), torch.rand(2, 3, 4, *SIZE)
    require_close(opened(clips), base_model(clips))
    require_close(opened(clips[:1]), base_model(clips[:1]))


def test_formats_for_one_video_say_so(stream_model: MoViNet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tflite files take one video at a time.*torch-export"):
        export_model(stream_model, tmp_path / "x", "tflite", batch=2)
    with pytest.raises(UsageError, match="at least 1; got 0"):
        export_model(stream_model, tmp_path / "x", "onnx", batch=0)
