"""Frames in another range or order are told to the user, at no cost in graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from movinet_convert.errors import MovinetWarning, UsageError
from movinet_convert.model import MoViNet, create_model, input_check
from movinet_convert.model.fuse import fuse
from movinet_convert.model.input_check import warn_of_range
from movinet_convert.model.transforms import ClipTransform
from movinet_convert.variants import ARCHS
from tests.helpers.settled import settled_model

SHAPE = (1, 3, 2, 34, 48)
BYTES = r"as if in 0\.\.255.*divide them by 255"
NORMALIZED = "normalized by mean and standard deviation"

Call = Callable[[MoViNet, Tensor], object]
CALLS: dict[str, Call] = {
    "forward": lambda model, clip: model(clip),
    "stream": lambda model, clip: model.stream(clip),
    "fused": lambda model, clip: fuse(model)(clip),
    "transform": lambda model, clip: model.transforms()(clip[0].transpose(0, 1)),
}


def clip() -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


def normalized(x: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean.view(3, 1, 1, 1)) / std.view(3, 1, 1, 1)


@pytest.fixture(scope="module")
def model() -> MoViNet:
    return create_model("t0-stream").eval()


@pytest.fixture
def fresh() -> MoViNet:
    """A network that has not been called."""
    return create_model("t0-stream").eval()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@torch.no_grad()
def test_frames_of_another_range_get_a_warning(call: Call, fresh: MoViNet) -> None:
    with pytest.warns(MovinetWarning, match=BYTES):
        call(fresh, 255 * clip())
    fresh = create_model("t0-stream").eval()
    with pytest.warns(MovinetWarning, match=NORMALIZED):
        call(fresh, normalized(clip()))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@torch.no_grad()
def test_frames_in_range_get_none(call: Call, fresh: MoViNet) -> None:
    small = torch.rand(2, 3, 12, 16)
    resized = torch.nn.functional.interpolate(small.round(), (34, 48), mode="bicubic")
    assert resized.min() < 0  # which overshoots
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for frames in (clip(), clip() / 255, resized.transpose(0, 1)[None], clip() * torch.nan):
            call(fresh, frames)


@torch.no_grad()
def test_black_frames_at_the_start_do_not_hide_the_range(fresh: MoViNet) -> None:
    state = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            _, state = fresh.stream(torch.zeros(SHAPE), state)
    with pytest.warns(MovinetWarning, match=BYTES):
        fresh.stream(255 * clip(), state)


@torch.no_grad()
def test_a_person_is_warned_once(fresh: MoViNet) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # what Python does with a UserWarning
        for _ in range(4):
            fresh(255 * clip())
            fresh.transforms()(255 * clip()[0].transpose(0, 1))
    assert len(caught) == 1


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> MoViNet:
    """A network of three blocks, which compiles sooner."""
    stages = tuple(replace(stage, layers=stage.layers[:1]) for stage in ARCHS["t0"].stages[:3])
    monkeypatch.setitem(ARCHS, "t0", replace(ARCHS["t0"], stages=stages))
    return settled_model("t0-stream")


@torch.no_grad()
def test_values_are_read_ever_more_seldom(fresh: MoViNet, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    check = fresh._range_check
    monkeypatch.setattr(input_check, "warn_of_range", lambda _: read.append(check._calls))
    for _ in range(1000):
        check(clip())
    assert read == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_exported_graph_has_no_check(short: MoViNet) -> None:
    checked = torch.export.export(short, (clip(),))
    short._range_check = lambda frames: None  # type: ignore[assignment]
    unchecked = torch.export.export(short, (clip(),))
    assert checked.graph_module.code == unchecked.graph_module.code
    traced = torch.jit.trace(short, (clip(),), check_trace=False)  # type: ignore[no-untyped-call]
    assert "aminmax" not in str(traced.inlined_graph)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked.module()(255 * clip())


@pytest.mark.usefixtures("fresh_compiler")
@torch.no_grad()
def test_compiled_graph_is_whole_and_not_compiled_again_after_eager_calls(short: MoViNet) -> None:
    counter = CompileCounter()
    compiled = torch.compile(short.stream, backend=counter, fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(255 * clip())
    with pytest.warns(MovinetWarning, match=BYTES):
        short.stream(255 * clip())
    compiled(clip())
    assert counter.frame_count == 1


def test_tensors_without_values_are_left_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_range(torch.full(SHAPE, 255.0, device="meta"))
        torch.vmap(lambda x: (warn_of_range(x), x)[1])(255 * clip())


@pytest.mark.parametrize(
    ("order", "advice"),
    [
        (lambda x: x.transpose(1, 2), "frames before the channels: use clip.transpose(1, 2)"),
        (lambda x: x.permute(0, 2, 3, 4, 1), "channels last: use clip.permute(0, 4, 1, 2, 3)"),
        (lambda x: x[0], "without the batch: use clip[None]"),
        (lambda x: x[0].transpose(0, 1), "use clip.transpose(0, 1)[None]"),
    ],
)
def test_another_order_of_axes_is_told_with_the_change(
    order: Callable[[Tensor], Tensor], advice: str, model: MoViNet
) -> None:
    given = order(clip())
    with pytest.raises(UsageError) as caught:
        model(given)
    assert advice in str(caught.value)
    changed = eval(str(caught.value).partition("use ")[2].rstrip("."), {"clip": given})
    assert torch.equal(changed, clip())


def test_bytes_are_refused_with_what_to_do(model: MoViNet) -> None:
    with pytest.raises(UsageError, match=r"got torch\.uint8: divide by 255"):
        model(torch.zeros(SHAPE, dtype=torch.uint8))


def test_transform_takes_bytes_without_a_warning() -> None:
    frames = torch.randint(0, 256, (2, 3, 34, 48), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ClipTransform(32, 32)(frames)
