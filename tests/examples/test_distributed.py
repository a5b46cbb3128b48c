"""Training in two processes, with the same batches in total as in one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from torch import nn

from examples.finetune.augmentation import Augmentation
from examples.finetune.checkpoint import CHECKPOINT_NAME, EpochMetrics
from examples.finetune.data import ClipSpec
from examples.finetune.shapes import write_shapes
from examples.finetune.splits import read_split
from examples.finetune.step import StepConfig
from examples.finetune.synchronization import synchronize
from examples.finetune.train import Trainer
from movinet_convert.model.layers import BatchNorm
from movinet_convert.video.processes import Group
from tests.examples.test_finetune import config, random_model
from tests.examples.test_training import without_randomness

pytest.importorskip("av")

LOSSES, FEW = 10, 3
SHAPE = (4, 5, 2, 3)


class Losses:
    """Notes the losses of all steps, and interrupts the run after ``until`` of them."""

    def __init__(self, until: int | None) -> None:
        self.found: list[float] = []
        self._until = until

    def step(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        self.found.append(loss)
        if len(self.found) == self._until:
            raise KeyboardInterrupt

    def epoch(self, metrics: EpochMetrics) -> None:
        pass


def losses(videos: Path, folder: Path, group: Group, **changes: object) -> list[float]:
    """Of an epoch, in which all processes together take four videos per step.

    Dropout and stochastic depth are off: they are drawn by each process.
    """
    torch.set_num_threads(1)
    settings = config(
        clip=ClipSpec(frames=2, size=32, fps=10.0),
        step=StepConfig(chunk=1),
        epochs=1,
        batch=4 // group.size,
        save_every=100,
        augmentation=Augmentation((0.3, 1.0), flip=0.5),
        ema=0.9,
        **changes,
    )
    split = read_split(videos, held_out=0.25)
    model = without_randomness(random_model("t0-stream"))
    listener = Losses(None if settings.synchronize else FEW)
    with nullcontext() if settings.synchronize else pytest.raises(KeyboardInterrupt):
        Trainer(model, split, settings, folder, group).train(listener, resume=False)
    return listener.found


def normalized(norm: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output in training mode, the gradients of a loss, and the moving statistics."""
    x = x.clone().requires_grad_()
    y = norm.train()(x)
    (y * weights).sum().backward()
    parts = {"output": y, "input gradient": x.grad, **dict(norm.named_buffers())}
    return {name: part.detach() for name, part in parts.items() if part is not None}


def inputs() -> tuple[BatchNorm, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    norm = BatchNorm(SHAPE[1], unbiased=True)
    norm.reset_parameters()
    x, weights = (torch.randn(*SHAPE, generator=random) * 3 + 1 for _ in range(2))
    return norm, x, weights


def _work(rank: int, folder: str, videos: str, results: Any) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    group = Group(rank, 2)
    norm, x, weights = inputs()
    holder = nn.Sequential(norm)
    synchronize(holder, group)
    # Unequal parts of the batch: one video and three.
    mine = slice(0, 1) if rank == 0 else slice(1, 4)
    own = normalized(holder[0], x[mine], weights[mine])
    # As arrays: the processes end before a tensor would be fetched from their memory.
    parts = group.gather({name: part.numpy() for name, part in own.items()})
    runs = {
        kind: losses(Path(videos), Path(folder, kind), group, synchronize=kind == "together")
        for kind in ("together", "apart")
    }
    if rank == 0:
        results.put((parts, runs))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), videos=14)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(videos: Path, folder: Path) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """What two processes computed: the parts of a normalisation, and losses."""
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    workers = torch.multiprocessing.start_processes(
        _work, (str(folder), str(videos), results), nprocs=2, join=False, start_method="spawn"
    )
    found = results.get()
    while not workers.join():  # raises what a worker raised; true once both have ended
        pass
    return found


@pytest.fixture(scope="module")
def one(videos: Path, folder: Path) -> list[float]:
    return losses(videos, folder / "one", Group())


def test_two_processes_have_the_first_ten_losses_of_one(
    one: list[float], two: tuple[Any, dict[str, list[float]]]
) -> None:
    assert len(one) == LOSSES
    assert two[1]["together"] == pytest.approx(one, rel=1e-3)


def test_without_synchronization_each_process_normalises_by_itself(
    one: list[float], two: tuple[Any, dict[str, list[float]]]
) -> None:
    apart = two[1]["apart"]
    assert len(apart) == FEW
    assert max(abs(a - b) / b for a, b in zip(apart, one[:FEW], strict=True)) > 0.01


def test_processes_normalise_as_one_with_all_their_values(two: tuple[Any, Any]) -> None:
    expected, parts = normalized(*inputs()), two[0]
    for name in ("output", "input gradient"):
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(joined, expected[name], rtol=1e-4, atol=1e-5)
    for name in ("running_mean", "running_var"):
        for part in parts:
            np.testing.assert_allclose(part[name], expected[name], rtol=1e-5)


def test_weights_and_averages_of_two_processes_are_those_of_one(
    one: list[float], two: tuple[Any, Any], folder: Path
) -> None:
    states = [
        torch.load(folder / name / CHECKPOINT_NAME)["state_dicts"] for name in ("one", "together")
    ]
    assert states[0]["model"].keys() == states[1]["model"].keys()
    assert states[0]["average"]["steps"] == states[1]["average"]["steps"] == LOSSES
    for name, value in states[0]["average"]["averages"].items():
        torch.testing.assert_close(states[1]["average"]["averages"][name], value, rtol=0, atol=1e-2)
