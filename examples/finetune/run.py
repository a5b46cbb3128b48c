"""A whole training run: epochs of steps, judged after each, resumed where it was killed."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed
from torch import nn

from examples.finetune.data import ClipFormat, Clips, Order, Shares, Split
from examples.finetune.generators import random_state
from examples.finetune.journal import EpochMetrics, Journal, Progress
from examples.finetune.learner import Learner, Recipe, judge, learn
from examples.finetune.readable import Batch, Readable, loader
from movinet_convert.errors import UsageError, VideoError
from movinet_convert.weights.save import save_weights

if TYPE_CHECKING:
    from pathlib import Path

    from movinet_convert.model import MoViNet
    from movinet_convert.video.processes import Group

BEST_NAME = "best.safetensors"


@dataclass(frozen=True)
class Plan:
    """What is done in what order; ``batch`` is each process's."""

    clip: ClipFormat
    recipe: Recipe
    epochs: int
    batch: int
    learning_rate: float
    warmup: int = 20  # steps
    weight_decay: float = 1e-4
    seed: int = 0
    workers: int = 2
    save_every: int = 50  # steps


class Reporter(Protocol):
    """Whoever wants to know how it goes."""

    def step(self, epoch: int, batch: int, batches: int, loss: float) -> None: ...

    def epoch(self, metrics: EpochMetrics) -> None: ...


class Run:
    """Trains ``model`` in place and leaves ``best.safetensors`` and a journal in ``folder``."""

    def __init__(
        self, model: MoViNet, split: Split, plan: Plan, folder: Path, group: Group
    ) -> None:
        self.device = next(model.parameters()).device
        self._model, self._split, self._plan, self._group = model, split, plan, group
        self._learner = Learner(model, plan.recipe)
        trained = [p for p in model.parameters() if p.requires_grad]
        # As in the official recipe, only kernels decay.
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": plan.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate)
        self._order = Order(len(split.training), plan.batch, group, plan.seed)
        settings = {
            **{k: v for k, v in asdict(plan).items() if k not in ("workers", "save_every")},
            "variant": model.variant.name,
            "classes": list(split.classes),
            "videos": len(split.training),
            "processes": group.size,
        }
        self._journal = Journal(folder, settings)
        self._parts = {"model": model, "optimizer": self._optimizer}
        self._unreadable: dict[str, str] = {}
        self._distributed: nn.Module = self._learner
        if group.size > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self._distributed = nn.parallel.DistributedDataParallel(
                self._learner, devices, broadcast_buffers=False
            )

    @property
    def unreadable(self) -> dict[str, str]:
        """Why videos could not be read, by their names; they were left out."""
        return dict(sorted(self._unreadable.items()))

    def train(self, reporter: Reporter, *, resume: bool) -> tuple[EpochMetrics, ...]:
        """Train to the end, from the checkpoint in the folder if ``resume``; returns all metrics.

        Videos that cannot be read are left out; see ``unreadable``.

        Raises UsageError for a folder with a run that was not to be resumed, VideoError where no
        video can be read.
        """
        progress = self._begin(resume)
        self._unreadable.update(progress.unreadable)
        plan, order = self._plan, self._order
        clips = Clips(self._split.training, plan.clip, seed=plan.seed)
        batches = loader(Readable(clips, seed=plan.seed), order, plan.workers)
        while progress.epoch < plan.epochs:
            order.epoch, order.start = progress.epoch, progress.batch
            self._model.train()
            before = time.monotonic() - progress.seconds
            for batch in batches:
                loss = self._step(batch, progress.epoch * len(order) + progress.batch)
                progress = replace(
                    progress,
                    batch=progress.batch + 1,
                    loss_sum=progress.loss_sum + loss,
                    seconds=time.monotonic() - before,
                )
                reporter.step(progress.epoch, progress.batch, len(order), loss)
                if progress.batch % plan.save_every == 0:
                    self._save(progress)
            progress = self._finish_epoch(progress, reporter)
        return progress.history

    def _begin(self, resume: bool) -> Progress:
        if not self._journal.checkpoint.exists():
            torch.manual_seed(self._plan.seed + self._group.rank)
            return Progress()
        if not resume:
            raise UsageError(
                f"{self._journal.folder} holds a run already; add --resume to go on with it, or "
                "name another folder."
            )
        return self._journal.resume(self._parts, self._group.rank)

    def _step(self, batch: Batch, step: int) -> float:
        self._unreadable.update(batch.unreadable)
        if batch.clips is None:
            raise self._nothing_to_read()
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(step)
        clip, labels = batch.clips.to(self.device), batch.labels.to(self.device)
        loss = learn(self._distributed, self._plan.recipe, clip, labels)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if not math.isfinite(loss.item()):
            raise UsageError(
                f"The loss is {loss.item()} at step {step}; a lower learning rate than "
                f"{self._plan.learning_rate} may help. The last checkpoint is from before."
            )
        return loss.item()

    def _rate(self, step: int) -> float:
        """Up in a straight line, then down as a cosine."""
        plan = self._plan
        if step < plan.warmup:
            return plan.learning_rate * (step + 1) / plan.warmup
        part = (step - plan.warmup) / max(1, plan.epochs * len(self._order) - plan.warmup)
        return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))

    def _finish_epoch(self, progress: Progress, reporter: Reporter) -> Progress:
        self._share_statistics()
        right, loss = self._judge()
        for unreadable in self._group.gather(self._unreadable):
            self._unreadable.update(unreadable)
        step = (progress.epoch + 1) * len(self._order)
        metrics = EpochMetrics(
            epoch=progress.epoch + 1,
            step=step,
            learning_rate=self._rate(step - 1),
            training_loss=progress.loss_sum / len(self._order),
            held_out_loss=loss,
            held_out_accuracy=right,
            seconds=progress.seconds,
        )
        history = (*progress.history, metrics)
        if self._group.rank == 0:
            if right >= max(row.held_out_accuracy for row in history):
                save_weights(
                    self._model, self._journal.folder / BEST_NAME, labels=self._split.classes
                )
            self._journal.write_metrics(history)
            self._journal.write_tensorboard(metrics)
        reporter.epoch(metrics)
        progress = Progress(epoch=progress.epoch + 1, history=history)
        self._save(progress)
        return progress

    def _judge(self) -> tuple[float, float]:
        """Accuracy and mean loss on the held-out videos that can be read, of all processes."""
        self._model.eval()
        videos = self._split.held_out
        clips = Clips(videos, self._plan.clip, seed=None)
        shares = Shares(len(videos), self._plan.batch, self._group)
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in loader(Readable(clips, seed=None), shares, self._plan.workers):
            self._unreadable.update(batch.unreadable)
            if batch.clips is not None:
                clip, labels = batch.clips.to(self.device), batch.labels.to(self.device)
                right, loss = judge(self._learner, clip, labels)
                sums += torch.tensor([right, loss, len(labels)], dtype=torch.float64)
        if self._group.size > 1:
            torch.distributed.all_reduce(sums)
        right_of_all, loss_of_all, read = sums.tolist()
        if not read:
            raise self._nothing_to_read()
        return right_of_all / read, loss_of_all / read

    def _nothing_to_read(self) -> VideoError:
        first = next(iter(self._unreadable.values()))
        return VideoError(
            f"None of {len(self._unreadable)} videos could be read, the first because: {first}"
        )

    def _save(self, progress: Progress) -> None:
        self._share_statistics()
        random = self._group.gather(random_state())
        if self._group.rank == 0:
            progress = replace(progress, unreadable=self.unreadable)
            self._journal.save(self._parts, progress, random)
        self._group.wait()

    @torch.no_grad()
    def _share_statistics(self) -> None:
        """Give every process the mean of all processes' moving statistics."""
        if self._group.size > 1:
            for statistic in self._model.buffers():
                shared: Any = statistic.cpu() / self._group.size  # the group is gloo's
                torch.distributed.all_reduce(shared)
                statistic.copy_(shared)
