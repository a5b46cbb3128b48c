"""``torch.compile`` takes the network whole and compiles it once."""

from collections.abc import Callable

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from movinet_convert.model import MoViNet
from movinet_convert.model.fuse import fuse
from tests.settled import settled_model

SIZE = (32, 32)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def unchanged(model: MoViNet) -> MoViNet:
    return model


@pytest.mark.parametrize("form", [unchanged, fuse], ids=["plain", "fused"])
@torch.no_grad()
def test_a_stream_is_one_graph_compiled_once_for_all_frames_and_batches(
    form: Callable[[MoViNet], MoViNet],
) -> None:
    model = form(settled_model("t0-stream"))
    counter = CompileCounter()
    stream = torch.compile(model.stream, backend=counter, fullgraph=True)
    counts = []
    for batch in (2, 3, 5):
        state, expected_state = model.initial_state(batch, *SIZE), None
        for _ in range(3):
            frames = torch.rand(batch, 3, 1, *SIZE)
            logits, state = stream(frames, state)
            expected, expected_state = model.stream(frames, expected_state)
            assert (logits - expected).abs().max() < 1e-4 * expected.std()
        counts.append(counter.frame_count)
    # The second batch size teaches the compiler that it varies; then the graph serves all.
    assert counts == [1, 2, 2]


@torch.no_grad()
def test_a_clip_is_one_graph() -> None:
    model = fuse(settled_model("t0-base"))
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for _ in range(2):
        clip = torch.rand(2, 3, 4, *SIZE)
        expected = model(clip)
        assert (compiled(clip) - expected).abs().max() < 1e-4 * expected.std()
    assert counter.frame_count == 1
