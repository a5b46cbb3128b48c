"""The network in training: normalisation, freezing, compilers, precision, several processes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from movinet_convert import (
    create_model,
    freeze_backbone,
    load_converted,
    save_weights,
    unfreeze_backbone,
)
from movinet_convert.errors import UsageError
from movinet_convert.model.fuse import fuse
from movinet_convert.model.layers import BatchNorm
from movinet_convert.weights.file import read_header

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from movinet_convert.model import MoViNet

NAMES = ["t0-base", "t0-stream"]
LABELS = torch.tensor([0, 2])


def random_model(name: str) -> MoViNet:
    """Random weights with ReZero scales of 0.5: at the initial 0 the blocks would add nothing."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=3)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("scale"):
                parameter.fill_(0.5)
    return model


def without_randomness(model: MoViNet) -> MoViNet:
    """Switch off dropout and stochastic depth, so that two runs can be compared."""
    model.classifier.dropout = 0.0
    for block in model.blocks.values():
        block.drop_rate = 0.0  # type: ignore[union-attr,assignment]
    return model


def clip(frames: int = 3) -> torch.Tensor:
    return torch.rand(2, 3, frames, 32, 40, generator=torch.Generator().manual_seed(1))


def train_briefly(model: nn.Module, steps: int = 12) -> list[float]:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 2e-3)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(clip()), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_only_skip_projections_use_the_unbiased_variance(name: str) -> None:
    norms = {n: m for n, m in create_model(name).named_modules() if isinstance(m, BatchNorm)}
    assert {n for n, m in norms.items() if m.unbiased} == {n for n in norms if ".skip." in n}


@torch.no_grad()
def test_pytorch_synchronizes_every_normalisation(tmp_path: Path) -> None:
    plain = random_model("t0-stream").eval()
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    kinds = [type(module) for module in converted.modules()]
    assert BatchNorm not in kinds
    assert kinds.count(nn.SyncBatchNorm) == [type(m) for m in plain.modules()].count(BatchNorm)
    assert converted.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(converted(clip()), plain(clip()))
    assert torch.equal(fuse(converted)(clip()), fuse(plain)(clip()))
    path = save_weights(converted, tmp_path / "mine.safetensors")
    assert torch.equal(load_converted(path)(clip()), plain(clip()))


def test_a_state_dict_without_metadata_loads_without_num_batches_tracked() -> None:
    tensors = dict(random_model("t0-base").state_dict())
    assert not any("num_batches" in name for name in tensors)
    create_model("t0-base", num_classes=3).load_state_dict(tensors)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_backbone_does_not_change_while_the_classifier_trains(name: str) -> None:
    model = freeze_backbone(random_model(name)).train()
    before = copy.deepcopy(model.state_dict())
    losses = train_briefly(model)
    assert losses[-1] < losses[0]
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {n for n in before if n.startswith("classifier.")}


def test_an_unfrozen_backbone_trains_again() -> None:
    model = unfreeze_backbone(freeze_backbone(random_model("t0-stream"))).train()
    before = copy.deepcopy(model.state_dict())
    train_briefly(model, steps=1)
    assert all(not torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_freezing_keeps_eval_mode() -> None:
    model = freeze_backbone(random_model("t0-base").eval())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_network_survives_save_and_load(name: str, tmp_path: Path) -> None:
    model = random_model(name)
    train_briefly(model, steps=2)
    labels = ["falling", "rising", "resting"]
    path = save_weights(model, tmp_path / "mine.safetensors", labels=labels)
    again = load_converted(path)
    assert again.num_classes == 3
    assert again.variant == model.variant
    assert again.settings == model.settings
    assert read_header(path).labels == tuple(labels)
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(clip()), model.eval()(clip()))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


def test_save_and_load_keep_the_gating(tmp_path: Path) -> None:
    model = create_model("t0-stream", num_classes=3, gating="model-garden")
    path = save_weights(model, tmp_path / "mine.safetensors")
    assert load_converted(path).settings.gating == "model-garden"


def test_a_wrapped_network_is_saved_without_its_wrapper(tmp_path: Path) -> None:
    model = create_model("t0-base", num_classes=3)
    path = save_weights(torch.compile(model), tmp_path / "mine.safetensors")
    assert load_converted(path).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model, path: (nn.Linear(2, 2), path, None), "neither a MoViNet"),
        (lambda model, path: (model, path.with_suffix(".pt"), None), r"\.safetensors"),
        (lambda model, path: (model, path, ["one"]), "1 labels.*3 classes"),
    ],
    ids=["another network", "another suffix", "labels that do not fit"],
)
def test_saving_invalid_weights_is_rejected(
    change: Callable[..., Any], message: str, tmp_path: Path
) -> None:
    model, path, labels = change(create_model("t0-base", num_classes=3), tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match=message):
        save_weights(model, path, labels=labels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_network_trains_like_the_eager_one() -> None:
    plain = without_randomness(random_model("t0-stream"))
    copied = copy.deepcopy(plain)
    # The whole graph, backward pass included, without generating code for it.
    compiled = torch.compile(copied, backend="aot_eager", fullgraph=True)
    assert train_briefly(compiled, 2) == pytest.approx(train_briefly(plain, 2), rel=1e-4)
    for (key, ours), theirs in zip(
        copied.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        if "running" in key:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_trains_in_mixed_precision(name: str) -> None:
    model = random_model(name)
    with torch.autocast("cpu", torch.bfloat16):
        losses = train_briefly(model, 15)
    assert losses[-1] < losses[0]
    state = model.state_dict().values()
    assert {t.dtype for t in state} == {torch.float32}
    assert all(bool(t.isfinite().all()) for t in state)


@pytest.mark.parametrize("frames", [3, 8])
def test_mixed_precision_gradients_agree_with_full_precision(frames: int) -> None:
    """Of the 3D convolution too, which in some builds of oneDNN is wrong for short clips."""
    exact = without_randomness(random_model("t0-base")).eval()
    mixed = copy.deepcopy(exact)
    F.cross_entropy(exact(clip(frames)), LABELS).backward()
    with torch.autocast("cpu", torch.bfloat16):
        logits = mixed(clip(frames))
    F.cross_entropy(logits.float(), LABELS).backward()
    for ours, theirs in zip(mixed.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        if theirs.dim() == 5:
            cosine = F.cosine_similarity(ours.grad.flatten(), theirs.grad.flatten(), dim=0)
            assert cosine > 0.95


def test_a_stream_backpropagates_through_calls_in_mixed_precision() -> None:
    model = without_randomness(random_model("t0-stream"))
    with torch.autocast("cpu", torch.bfloat16):
        _, state = model.stream(clip(4)[:, :, :2])
        logits, _ = model.stream(clip(4)[:, :, 2:], state)
    F.cross_entropy(logits.float(), LABELS).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_stream_backpropagates_through_calls_in_training_mode() -> None:
    """The moving statistics change between the calls, before the backward pass has read them."""
    model = without_randomness(random_model("t0-stream"))
    _, state = model.stream(clip(4)[:, :, :2])
    logits, _ = model.stream(clip(4)[:, :, 2:], state)
    F.cross_entropy(logits, LABELS).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


class StreamStep(nn.Module):
    """``stream`` as the forward pass, which is what DistributedDataParallel watches."""

    def __init__(self, model: MoViNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        _, state = self.model.stream(video[:, :, :2])
        logits, _ = self.model.stream(video[:, :, 2:], state)
        return logits


def _gradients_of_half_a_batch(rank: int, folder: str, results: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    model = without_randomness(random_model("t0-stream")).eval()  # batch statistics would differ
    parallel = nn.parallel.DistributedDataParallel(StreamStep(model))
    loss = F.cross_entropy(parallel(clip(4)[rank : rank + 1]), LABELS[rank : rank + 1])
    loss.backward()
    if rank == 0:
        results.put({n: p.grad.numpy() for n, p in model.named_parameters()})
    torch.distributed.destroy_process_group()


def test_two_processes_compute_the_same_gradients_as_one(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    workers = torch.multiprocessing.start_processes(
        _gradients_of_half_a_batch,
        (str(tmp_path), results),
        nprocs=2,
        join=False,
        start_method="spawn",
    )
    gradients = results.get()
    while not workers.join():  # raises what a worker raised; true once both have ended
        pass

    model = without_randomness(random_model("t0-stream")).eval()
    F.cross_entropy(StreamStep(model)(clip(4)), LABELS).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            torch.from_numpy(gradients[name]), parameter.grad, rtol=1e-3, atol=1e-5
        )
