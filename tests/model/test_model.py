"""The network and its stream state, apart from any weights."""

from __future__ import annotations

from dataclasses import replace
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from movinet_convert.errors import StateError, UsageError
from movinet_convert.model import MoViNet, StreamState, create_model
from movinet_convert.model.create import initialize
from movinet_convert.model.fuse import fuse
from movinet_convert.model.layers import GATES, BatchNorm
from movinet_convert.model.positions import FramePositions
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import Origins, Variant, list_variants

ROUNDING = 1e-5  # of the logits' deviation
STREAMS = [name for name in list_variants(released=False) if name.endswith("stream")]


def lively(name: str, **options: object) -> MoViNet:
    """A network whose blocks matter: at ReZero's own start of 0 they would add nothing."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=50, **options).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("scale"):
                parameter.fill_(0.5)
        model.classifier.output.weight.normal_(std=0.1)
    return model


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.std()).item()


def clip(batch: int, frames: int, height: int = 44, width: int = 36, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, frames, height, width, generator=generator)


def run_in_chunks(model: MoViNet, video: Tensor, chunks: list[int]) -> tuple[Tensor, StreamState]:
    state = None
    for frames in video.split(chunks, dim=2):
        logits, state = model.stream(frames, state)
    assert state is not None
    return logits, state


@pytest.mark.parametrize("name", list_variants(released=False))
@torch.no_grad()
def test_forward_returns_one_row_of_logits_per_clip_of_any_size(name: str) -> None:
    model = lively(name)
    for batch, frames, height, width in [(1, 1, 32, 32), (2, 3, 33, 47), (1, 2, 7, 5)]:
        assert model(clip(batch, frames, height, width)).shape == (batch, 50)


@pytest.mark.parametrize("name", STREAMS)
@torch.no_grad()
def test_logits_do_not_depend_on_how_a_video_is_chunked(name: str) -> None:
    model = lively(name)
    video = clip(1, 13)
    whole, whole_state = run_in_chunks(model, video, [13])
    assert distance(model(video), whole) <= ROUNDING
    for chunks in ([1] * 13, [1, 4, 8]):
        logits, state = run_in_chunks(model, video, chunks)
        assert distance(logits, whole) <= ROUNDING
        for (tensor_name, ours), (_, expected) in zip(
            state.tensors(), whole_state.tensors(), strict=True
        ):
            scale = expected.abs().max().clamp(min=1)
            assert ((ours - expected).abs().max() / scale).item() <= ROUNDING, tensor_name


@pytest.mark.parametrize("name", ["a0-stream", "a3-stream"])
@torch.no_grad()
def test_per_frame_returns_the_logits_after_every_frame(name: str) -> None:
    model = lively(name)
    video = clip(2, 5)
    every, _ = model.stream(video, per_frame=True)
    assert every.shape == (2, 5, 50)
    for t in range(5):
        assert distance(every[:, t], model(video[:, :, : t + 1])) <= ROUNDING


@pytest.mark.parametrize("name", ["a0-stream", "a3-stream"])
@torch.no_grad()
def test_videos_started_at_different_times_share_a_batch(name: str) -> None:
    model = lively(name)
    first, second = clip(1, 9, seed=1), clip(1, 9, seed=2)
    _, early = model.stream(first[:, :, :6])
    _, late = model.stream(second[:, :, :1])
    both = StreamState.stack([early, late])
    assert both.frame_count.tolist() == [6, 1]
    next_frames = torch.cat([first[:, :, 6:9], second[:, :, 1:4]])
    logits, both = model.stream(next_frames, both)
    assert distance(logits[:1], model(first)) <= ROUNDING
    assert distance(logits[1:], model(second[:, :, :4])) <= ROUNDING
    assert [state.frame_count.item() for state in both.split()] == [9, 4]


@torch.no_grad()
def test_resetting_a_video_does_not_affect_the_others() -> None:
    model = lively("a3-stream")
    video = clip(2, 6)
    _, state = model.stream(video[:, :, :4])
    logits, _ = model.stream(video[:, :, 4:], state.reset(torch.tensor([True, False])))
    assert distance(logits[:1], model(video[:1, :, 4:])) <= ROUNDING
    assert distance(logits[1:], model(video[1:])) <= ROUNDING


@torch.no_grad()
def test_the_initial_state_is_equivalent_to_none() -> None:
    model = lively("a3-stream")
    video = clip(2, 3)
    started, _ = model.stream(video, model.initial_state(2, 44, 36))
    assert torch.equal(started, model.stream(video)[0])


def legacy(name: str) -> MoViNet:
    """The older kind of stream model, with causal 3D convolutions."""
    variant = get_variant(name)
    settings = replace(Variant(variant.arch, "base").settings(), causal=True)
    model = MoViNet(variant, settings, 50)
    initialize(model)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, "plain") for name in STREAMS]
    + [(name, form) for name in ("a0-stream", "legacy") for form in ("fused", "bfloat16")],
)
@torch.no_grad()
def test_the_initial_state_has_the_layout_of_returned_states(name: str, form: str) -> None:
    model = legacy("a0-stream") if name == "legacy" else create_model(name, num_classes=5).eval()
    model = fuse(model) if form == "fused" else model
    model = model.bfloat16() if form == "bfloat16" else model
    for batch, height, width in [(2, 32, 48), (3, 37, 51), (1, 1, 2)]:
        _, expected = model.stream(clip(batch, 1, height, width))
        found = model.initial_state(batch, height, width)
        for (name_of, ours), (expected_name, theirs) in zip(
            found.tensors(), expected.tensors(), strict=True
        ):
            assert name_of == expected_name
            assert not ours.any()
            assert (ours.shape, ours.dtype, ours.stride()) == (
                theirs.shape,
                theirs.dtype,
                theirs.stride(),
            ), name_of


def test_creating_an_initial_state_does_not_run_the_network() -> None:
    model = lively("t0-stream").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert model.initial_state(1, 1, 1).frame_count.tolist() == [0]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(UsageError, match="at least one video"):
        model.initial_state(0, 32, 32)
    with pytest.raises(UsageError, match="t0-stream"):
        create_model("t0-base").initial_state(1, 32, 32)


def test_videos_are_selected_by_indices_or_by_a_mask() -> None:
    state = lively("t0-stream").initial_state(3, 32, 32)
    numbered = replace(state, frame_count=torch.tensor([5, 6, 7]))
    for videos in (torch.tensor([True, False, True]), [True, False, True], [0, 2]):
        assert numbered.select(videos).frame_count.tolist() == [5, 7]
    assert numbered.select([2, 0, 2]).frame_count.tolist() == [7, 5, 7]
    assert numbered.select([]).batch == 0
    for videos, message in (
        ([-1], "no video -1"),
        ([3], "no video 3"),
        ([True, False], r"shape \(3,\)"),
        ([0.0], "list of indices"),
        (torch.tensor(1), "list of indices"),
    ):
        with pytest.raises(StateError, match=message):
            numbered.select(videos)


def change(state: StreamState, **tensors: Tensor) -> StreamState:
    """The state with other tensors, by ``pool``, ``buffer`` (of the first block that has one)."""
    name = next(iter(state.buffers))
    if "pool" in tensors:
        return replace(state, pools={**state.pools, name: tensors["pool"]})
    if "buffer" in tensors:
        return replace(state, buffers={**state.buffers, name: tensors["buffer"]})
    return replace(state, **tensors)


@torch.no_grad()
def test_a_state_of_another_network_is_rejected_before_the_forward_pass() -> None:
    model = lively("t0-stream").train()
    before = model.stem.norm.running_mean.clone()
    state = model.initial_state(1, 32, 32)
    name = next(iter(state.buffers))
    wrong = [
        (change(state, pool=state.pools[name][:, :1]), r"\.pool is of shape \(1, 1\)"),
        (change(state, head=state.head[:, :1]), r"head is of shape \(1, 1\)"),
        (change(state, buffer=state.buffers[name].mT[..., :3]), r"\.buffer is of shape"),
        (replace(state, buffers={}), "0 of them with a stream buffer"),
        (replace(state, buffers={f"x{n}": b for n, b in state.buffers.items()}), "is missing"),
        (replace(state, frame_count=torch.zeros(1)), "float32"),
        (replace(state, frame_count=torch.tensor(0)), "same batch"),
    ]
    for other, message in wrong:
        with pytest.raises(StateError, match=message):
            model.stream(clip(1, 1, 32, 32), other)
    assert torch.equal(model.stem.norm.running_mean, before)


@torch.no_grad()
def test_streaming_does_not_modify_its_inputs() -> None:
    model = lively("a0-stream")
    video = clip(1, 4)
    _, state = model.stream(video[:, :, :2])
    before = state.clone()
    model.stream(video[:, :, 2:], state)
    assert all(
        torch.equal(now, then)
        for (_, now), (_, then) in zip(state.tensors(), before.tensors(), strict=True)
    )
    assert torch.equal(video, clip(1, 4))


@torch.no_grad()
def test_one_model_serves_many_threads() -> None:
    model = lively("a0-stream")
    videos = [clip(1, 4, seed=seed) for seed in range(4)]
    results: dict[int, Tensor] = {}

    def watch(i: int) -> None:
        with torch.no_grad():
            results[i] = run_in_chunks(model, videos[i], [1] * 4)[0]

    threads = [Thread(target=watch, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, video in enumerate(videos):
        assert distance(results[i], model(video)) <= ROUNDING


@torch.no_grad()
def test_a_state_is_a_pytree_that_can_be_cast() -> None:
    model = lively("a0-stream")
    _, state = model.stream(clip(2, 2))
    leaves, structure = pytree.tree_flatten(state)
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    assert isinstance(pytree.tree_unflatten(leaves, structure), StreamState)
    half = state.to(torch.float64)
    assert half.head.dtype == torch.float64
    assert half.frame_count.dtype == torch.int64


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_network_runs_in_half_and_double_precision(dtype: torch.dtype) -> None:
    model = lively("a3-stream")
    expected = model(clip(1, 3))
    logits, _ = run_in_chunks(model.to(dtype), clip(1, 3), [1, 2])
    assert logits.dtype == dtype
    assert distance(logits.float(), expected) <= (0.3 if dtype == torch.bfloat16 else ROUNDING)


@torch.no_grad()
def test_frames_can_have_any_memory_format() -> None:
    model = lively("a0-base")
    video = clip(2, 3)
    expected = model(video)
    interleaved = video.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    assert torch.equal(model(interleaved), expected)
    wider = torch.rand(2, 3, 3, 44, 72)
    wider[..., ::2] = video
    assert torch.equal(model(wider[..., ::2]), expected)


def test_the_two_gatings_give_different_logits() -> None:
    x = torch.tensor([-4.0, -2.7, -1.0, 0.0, 1.0, 2.7, 4.0], dtype=torch.float64)
    assert torch.allclose(GATES["keras"](x), (0.2 * x + 0.5).clamp(0, 1))
    assert torch.allclose(GATES["model-garden"](x), (x + 3).clamp(0, 6) * 0.16667)
    keras, garden = lively("a0-stream", gating="keras"), lively("a0-stream", gating="model-garden")
    assert distance(keras(clip(1, 2)), garden(clip(1, 2))) > 1e-3


def test_dropout_and_stochastic_depth_apply_in_training_only() -> None:
    model = lively("a0-stream")
    video = clip(2, 2)
    assert torch.equal(model(video), model(video))
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.momentum = 0.0
    model.train()
    assert not torch.equal(model(video), model(video))


def test_stochastic_depth_drops_whole_videos() -> None:
    model = lively("a0-stream").train()
    block = model.blocks["block0_layer0"]
    torch.manual_seed(0)
    block.drop_rate = 0.5
    kept = block._drop_videos(torch.ones(32 * 3, 4, 2, 2), FramePositions(32, 3)).view(32, -1)
    assert set(kept.flatten().tolist()) == {0.0, 2.0}
    assert all(len(set(video.tolist())) == 1 for video in kept)


def test_gradients_flow_through_the_state_until_it_is_detached() -> None:
    model = lively("a0-stream")
    video = clip(1, 4).requires_grad_()
    _, state = model.stream(video[:, :, :2])
    model.stream(video[:, :, 2:], state)[0].sum().backward()
    assert video.grad is not None
    assert video.grad[:, :, :2].abs().sum() > 0
    video.grad = None
    _, state = model.stream(video[:, :, :2])
    model.stream(video[:, :, 2:], state.detach())[0].sum().backward()
    assert video.grad[:, :, :2].abs().sum() == 0


@pytest.mark.parametrize("name", ["a0-base", "a3-stream"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = lively(name)
    model(clip(2, 6)).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_invalid_input_raises_a_clear_error() -> None:
    model = lively("a0-stream")
    with pytest.raises(UsageError, match=r"\(B, 3, T, H, W\)"):
        model(torch.rand(1, 4, 2, 8, 8))
    with pytest.raises(UsageError, match="divide by 255"):
        model(torch.zeros(1, 3, 2, 8, 8, dtype=torch.uint8))
    with pytest.raises(UsageError, match="a0-stream"):
        lively("a0-base").stream(clip(1, 1))
    _, state = model.stream(clip(1, 1))
    with pytest.raises(StateError, match="same batch"):
        model.stream(clip(2, 1), state)
    with pytest.raises(StateError, match=r"\.buffer is of shape"):
        model.stream(clip(1, 1, 64, 64), state)
    with pytest.raises(StateError, match="blocks"):
        lively("a1-stream").stream(clip(1, 1), state)
    with pytest.raises(StateError, match="one bool a video"):
        state.reset(torch.tensor([1, 0]))
    with pytest.raises(StateError, match="cannot join"):
        StreamState.stack([state, model.stream(clip(1, 1, 64, 64))[1]])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a0-base", {"num_classes": 0}, "at least 1; got 0"),
        ("a0-base", {"num_classes": True}, "at least 1; got True"),
        ("a0-base", {"num_classes": 2.5}, "at least 1; got 2.5"),
        ("a0-stream", {"gating": "hard"}, "not 'hard'"),
        ("a0-base", {"head_activation": "relu"}, "head activation 'relu'.*swish, hard_swish"),
    ],
)
def test_invalid_options_are_rejected(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model(name, **options)


def test_settings_of_the_other_mode_and_invalid_rates_are_rejected() -> None:
    base, stream = get_variant("a0-base"), get_variant("a0-stream")
    with pytest.raises(UsageError, match="a0-base is a base variant"):
        MoViNet(base, stream.settings())
    with pytest.raises(UsageError, match=r"dropout is a probability in \[0, 1\)"):
        MoViNet(base, dropout=1.0)


def test_a_network_records_which_settings_were_chosen() -> None:
    chosen = create_model("t0-stream", gating="keras").origins
    assert chosen == Origins(gating="user", head_activation="default", legacy="default")
    model = create_model("t0-base", head_activation="hard_swish")
    assert model.settings.head_activation == "hard_swish"
    assert model.origins == Origins("default", "user", "default")
    assert fuse(model).origins == model.origins


def test_random_weights_follow_the_official_initialisers() -> None:
    model = create_model("a0-stream")
    assert model.training
    tensors = model.state_dict()
    assert all(tensors[name].item() == 0 for name in tensors if name.endswith("scale"))
    assert abs(tensors["classifier.output.weight"].std().item() - 0.01) < 1e-3
    hidden = tensors["classifier.hidden.weight"]
    assert abs(hidden.std().item() - (2 / hidden.shape[1]) ** 0.5) < 2e-3
