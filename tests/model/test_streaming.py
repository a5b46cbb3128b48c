"""Streams in one batch: join and leave at any frame, whatever the neighbours do."""

import pytest
import torch

from movinet_convert.errors import StateError, UsageError
from movinet_convert.model import MoViNet, StreamState
from movinet_convert.model.fuse import fuse
from movinet_convert.model.stream_batch import StreamBatch
from tests.helpers.settled import settled_model

SIZE = (32, 40)


@pytest.fixture(scope="module", params=["plain", "fused"])
def model(request: pytest.FixtureRequest) -> MoViNet:
    model = settled_model("t0-stream")
    return fuse(model) if request.param == "fused" else model


@pytest.fixture
def videos() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(4, 3, 8, *SIZE)


def alone(model: MoViNet, video: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.stream(video[None])[0][0]


def assert_same(logits: torch.Tensor, expected: torch.Tensor) -> None:
    assert (logits - expected).abs().max() < 1e-4 * expected.std()


def test_streams_that_join_and_leave_give_the_same_logits_as_alone(
    model: MoViNet, videos: torch.Tensor
) -> None:
    batch: StreamBatch[int] = StreamBatch(model, SIZE)
    starts, ends = [0, 2, 1, 3], [5, 8, 4, 7]
    latest = {}
    for t in range(8):
        for key in range(4):
            if starts[key] == t:
                batch.join(key)
            if ends[key] == t:
                batch.leave(key)
        latest |= batch.step({key: videos[key, :, t] for key in batch.keys})
    for key in range(4):
        assert_same(latest[key], alone(model, videos[key, :, starts[key] : ends[key]]))


def test_a_stream_without_a_frame_keeps_its_state(model: MoViNet, videos: torch.Tensor) -> None:
    batch: StreamBatch[str] = StreamBatch(model, SIZE)
    for key in ("slow", "fast"):
        batch.join(key)
    for t in range(6):
        fast = batch.step({"fast": videos[0, :, t]})["fast"]
        if t % 3 == 0:
            both = batch.step({"slow": videos[1, :, t // 3]})
    assert_same(fast, alone(model, videos[0, :, :6]))
    assert_same(both["slow"], alone(model, videos[1, :, :2]))


def test_other_videos_do_not_change_a_bit(model: MoViNet, videos: torch.Tensor) -> None:
    found = []
    for neighbour in (videos[1], torch.full_like(videos[1], float("nan"))):
        batch: StreamBatch[str] = StreamBatch(model, SIZE)
        for key in ("left", "me", "right"):
            batch.join(key)
        for t in range(4):
            step = {"left": neighbour[:, t], "me": videos[0, :, t], "right": neighbour[:, -t]}
            logits = batch.step(step)["me"]
        found.append(logits)
    assert torch.equal(*found)


def test_a_stream_can_leave_and_resume_in_another_batch(
    model: MoViNet, videos: torch.Tensor
) -> None:
    first: StreamBatch[str] = StreamBatch(model, SIZE)
    first.join("a")
    first.join("b")
    for t in range(3):
        first.step({"a": videos[0, :, t], "b": videos[1, :, t]})
    second: StreamBatch[str] = StreamBatch(model, SIZE)
    second.join("moved", first.leave("a"))
    assert first.keys == ("b",)
    logits = second.step({"moved": videos[0, :, 3:5]})["moved"]
    assert_same(logits, alone(model, videos[0, :, :5]))


def test_reset_restarts_one_stream(model: MoViNet, videos: torch.Tensor) -> None:
    batch: StreamBatch[str] = StreamBatch(model, SIZE)
    batch.join("a")
    batch.join("b")
    for t in range(3):
        batch.step({"a": videos[0, :, t], "b": videos[1, :, t]})
    batch.reset("a")
    logits = batch.step({"b": videos[1, :, 3], "a": videos[0, :, 3]})
    assert_same(logits["a"], alone(model, videos[0, :, 3:4]))
    assert_same(logits["b"], alone(model, videos[1, :, :4]))


def test_invalid_calls_raise_clear_errors(model: MoViNet, videos: torch.Tensor) -> None:
    batch: StreamBatch[str] = StreamBatch(model, SIZE)
    batch.join("a")
    with pytest.raises(UsageError, match="already"):
        batch.join("a")
    with pytest.raises(UsageError, match="no stream 'b'"):
        batch.step({"b": videos[0, :, 0]})
    with pytest.raises(UsageError, match="32 x 40"):
        batch.step({"a": torch.rand(3, 64, 64)})
    with pytest.raises(StateError, match="has 2"):
        batch.join("c", model.initial_state(2, *SIZE))
    with pytest.raises(StateError, match=r"\.buffer is of shape"):
        batch.join("c", model.initial_state(1, 64, 64))
    assert batch.step({}) == {}


def test_a_model_in_training_mode_is_rejected() -> None:
    model = settled_model("t0-stream")
    batch: StreamBatch[str] = StreamBatch(model, SIZE)
    batch.join("a")
    model.train()
    with pytest.raises(UsageError, match=r"model\.eval\(\)"):
        batch.step({"a": torch.rand(3, *SIZE)})
    with pytest.raises(UsageError, match=r"model\.eval\(\)"):
        StreamBatch(model, SIZE)


def test_base_models_are_rejected() -> None:
    with pytest.raises(UsageError, match="use t0-stream"):
        StreamBatch(settled_model("t0-base"))


def test_a_state_is_printed_on_one_line() -> None:
    model = settled_model("t0-stream")
    with torch.no_grad():
        _, state = model.stream(torch.rand(2, 3, 3, 32, 32))
        _, other = model.stream(torch.rand(1, 3, 1, 32, 32))
    facts = "blocks=14, dtype=float32, device=cpu"
    assert repr(state) == f"StreamState(videos=2, frames=3, {facts})"
    assert repr(StreamState.stack([state, other])) == f"StreamState(videos=3, frames=1-3, {facts})"
    assert "frames=?" in repr(state.to("meta"))
    assert "frames=?" in repr(state.select([]))
