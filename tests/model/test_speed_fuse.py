"""The fused network computes what the network does."""

import copy
import pickle

import pytest
import torch

from movinet_convert.errors import StateError, UsageError
from movinet_convert.model import MoViNet, StreamState, chunked
from movinet_convert.model.freeze import unfreeze_backbone
from movinet_convert.model.fuse import fuse
from movinet_convert.model.onednn import FusedPointwise
from tests.helpers.settled import settled_model

VARIANTS = [
    ("a0-base", None),
    ("a0-stream", "keras"),
    ("a0-stream", "model-garden"),
    ("a3-stream", "keras"),  # with positional encoding
]
CLIPS = [(1, 9, 48, 48), (2, 5, 37, 50), (3, 1, 40, 32)]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda p: "-".join(filter(None, p)))
def model(request: pytest.FixtureRequest) -> MoViNet:
    name, gating = request.param
    return settled_model(name, gating=gating)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that even short clips go through the blocks in several chunks."""
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 60_000)


def deviation_of(difference: torch.Tensor, reference: torch.Tensor) -> float:
    return (difference.abs().max() / reference.std()).item()


def assert_states_close(left: StreamState, right: StreamState, tolerance: float) -> None:
    for (name, one), (other_name, other) in zip(left.tensors(), right.tensors(), strict=True):
        assert name == other_name
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        worst = (one.double() - other.double()).abs().max()
        assert worst <= tolerance * max(1.0, other.double().abs().max().item()), name


@pytest.mark.parametrize("shape", CLIPS, ids=str)
@torch.no_grad()
def test_folding_is_exact_in_float64(model: MoViNet, shape: tuple[int, int, int, int]) -> None:
    exact = copy.deepcopy(model).double()
    clip = torch.rand(shape[0], 3, *shape[1:], dtype=torch.float64)
    reference = exact(clip)
    assert deviation_of(fuse(exact)(clip) - reference, reference) < 1e-9


@pytest.mark.parametrize("shape", CLIPS, ids=str)
@torch.no_grad()
def test_float32_kernels_agree_with_float64(
    model: MoViNet, shape: tuple[int, int, int, int], small_chunks: None
) -> None:
    exact = copy.deepcopy(model).double()
    clip = torch.rand(shape[0], 3, *shape[1:])
    reference = exact(clip.double())
    plain = deviation_of(model(clip) - reference, reference)
    fused = deviation_of(fuse(model)(clip) - reference, reference)
    assert fused < max(1e-5, 3 * plain)


@torch.no_grad()
def test_chunked_execution_does_not_change_a_stream(model: MoViNet, small_chunks: None) -> None:
    if not model.settings.causal:
        pytest.skip("base models do not stream")
    clip = torch.rand(2, 3, 9, 48, 40)
    fused = fuse(model)
    whole_logits, whole_state = model.stream(clip)
    state = None
    for part in clip.split([1, 4, 1, 3], dim=2):
        logits, state = fused.stream(part, state)
    assert state is not None
    assert deviation_of(logits - whole_logits, whole_logits) < 1e-4
    assert_states_close(state, whole_state, 1e-4)


@torch.no_grad()
def test_the_fused_and_the_plain_network_accept_each_others_states() -> None:
    model = settled_model("a0-stream")
    clip = torch.rand(1, 3, 4, 48, 48)
    expected, _ = model.stream(clip)
    _, state = fuse(model).stream(clip[:, :, :2])
    logits, _ = model.stream(clip[:, :, 2:], state)
    assert deviation_of(logits - expected, expected) < 1e-4


@torch.no_grad()
def test_fused_network_checks_the_size_of_its_state() -> None:
    fused = fuse(settled_model("a0-stream"))
    _, state = fused.stream(torch.rand(1, 3, 1, 48, 48))
    with pytest.raises(StateError, match=r"\.buffer is of shape"):
        fused.stream(torch.rand(1, 3, 1, 64, 64), state)


def test_fusing_does_not_modify_the_model_and_is_for_inference() -> None:
    model = settled_model("a0-base")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused = fuse(model)
    assert not fused.training
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (fused.variant, fused.settings, fused.num_classes) == (
        model.variant,
        model.settings,
        model.num_classes,
    )


def test_a_model_in_training_mode_is_fused_as_in_eval_mode_and_not_modified() -> None:
    model = settled_model("t0-stream")
    clip = torch.rand(1, 3, 2, 32, 32)
    expected = fuse(model)(clip)
    assert torch.equal(fuse(model.train())(clip), expected)
    assert model.training


def test_training_a_fused_network_is_an_error() -> None:
    fused = fuse(settled_model("t0-base"))
    assert not fused.eval().training
    with pytest.raises(UsageError, match="fused network cannot be trained"):
        fused.train()
    with pytest.raises(UsageError, match="fused network cannot be trained"):
        unfreeze_backbone(fused)


def test_a_fused_network_backpropagates_to_its_input() -> None:
    model = settled_model("a0-base")
    clip = torch.rand(1, 3, 4, 32, 32, requires_grad=True)
    (expected,) = torch.autograd.grad(model(clip).sum(), clip)
    (found,) = torch.autograd.grad(fuse(model)(clip).sum(), clip)
    assert deviation_of(found - expected, expected) < 1e-3


@torch.no_grad()
def test_a_used_fused_network_can_be_copied_pickled_and_cast() -> None:
    fused = fuse(settled_model("a0-base"))
    clip = torch.rand(1, 3, 4, 32, 32)
    expected = fused(clip)  # packs the weights
    assert torch.equal(copy.deepcopy(fused)(clip), expected)
    assert torch.equal(pickle.loads(pickle.dumps(fused))(clip), expected)
    cast = copy.deepcopy(fused).double()(clip.double()).float()
    assert deviation_of(cast - expected, expected) < 1e-4


@torch.no_grad()
def test_packed_weights_are_updated_when_the_weights_change() -> None:
    fused = fuse(settled_model("a0-base"))
    clip = torch.rand(1, 3, 4, 32, 32)
    before = fused(clip)
    fused.head.weight.mul_(0.5)
    assert not torch.allclose(fused(clip), before, rtol=1e-3)


@pytest.mark.parametrize("activation", [None, "swish", "hard_swish"])
@pytest.mark.parametrize("side", [4, 40], ids=["few pixels", "many pixels"])
@torch.no_grad()
def test_the_pointwise_residual_is_added_before_the_activation(
    activation: str | None, side: int
) -> None:
    conv = torch.nn.Conv2d(5, 6, 1)
    layer = FusedPointwise(conv, torch.randn(6, 5, 1, 1), torch.randn(6), activation)
    x = torch.randn(1, 5, side, side).contiguous(memory_format=torch.channels_last)
    plus = torch.randn(1, 6, side, side).contiguous(memory_format=torch.channels_last)
    exact = copy.deepcopy(layer).double()(x.double(), plus.double())
    torch.testing.assert_close(layer(x, plus).double(), exact, rtol=1e-4, atol=1e-5)


def test_a_fused_network_cannot_be_fused_again() -> None:
    with pytest.raises(UsageError, match="already fused"):
        fuse(fuse(settled_model("a0-base")))
