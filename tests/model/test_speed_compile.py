"""``torch.compile`` takes the network whole and compiles it once."""

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch._inductor.config
from torch._dynamo.testing import CompileCounter

from movinet_convert.export import aot_inductor
from movinet_convert.model import MoViNet
from movinet_convert.model.fuse import fuse
from movinet_convert.variants import ARCHS
from tests.helpers.settled import settled_model

SIZE = (32, 32)

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def unchanged(model: MoViNet) -> MoViNet:
    return model


@pytest.mark.parametrize("form", [unchanged, fuse], ids=["plain", "fused"])
@torch.no_grad()
def test_a_stream_compiles_to_one_graph_for_all_frames_and_batches(
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


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@torch.no_grad()
def test_the_documented_compiler_options_give_the_eager_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = tuple(replace(stage, layers=stage.layers[:1]) for stage in ARCHS["t0"].stages[:3])
    monkeypatch.setitem(ARCHS, "t0", replace(ARCHS["t0"], stages=stages))  # compiles sooner
    model = fuse(settled_model("t0-stream"))
    options = {**aot_inductor.OPTIONS, "cpp_wrapper": True}
    stream = torch.compile(model.stream, fullgraph=True, options=options)
    state, expected_state = model.initial_state(1, *SIZE), None
    for _ in range(3):
        frames = torch.rand(1, 3, 1, *SIZE)
        with torch._inductor.config.patch(freezing=True):
            logits, state = stream(frames, state)
        expected, expected_state = model.stream(frames, expected_state)
        assert (logits - expected).abs().max() < 1e-4 * expected.std()


@torch.no_grad()
def test_forward_compiles_to_one_graph() -> None:
    model = fuse(settled_model("t0-base"))
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for _ in range(2):
        clip = torch.rand(2, 3, 4, *SIZE)
        expected = model(clip)
        assert (compiled(clip) - expected).abs().max() < 1e-4 * expected.std()
    assert counter.frame_count == 1
