"""The training loop: epochs of steps, an evaluation after each epoch, regular checkpoints."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
from torch import nn

from examples.finetune.checkpoint import EpochMetrics, Progress, RunFolder, rng_state
from examples.finetune.data import (
    Batch,
    Clips,
    ClipSpec,
    EvaluationSampler,
    Split,
    TrainingSampler,
    loader,
)
from examples.finetune.quantization import QuantizedTrainingModel
from examples.finetune.step import StepConfig, TrainingModel, accumulate_gradients, evaluate_batch
from movinet_convert import save_weights
from movinet_convert.errors import UsageError, VideoError
from movinet_convert.model import MoViNet
from movinet_convert.video.processes import Group

BEST_NAME = "best.safetensors"


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run; ``batch`` is per process."""

    clip: ClipSpec
    step: StepConfig
    epochs: int
    batch: int
    learning_rate: float  # peak
    warmup: int = 20  # steps
    weight_decay: float = 1e-4
    seed: int = 0
    workers: int = 2
    save_every: int = 50  # steps
    qat: bool = False  # quantization-aware


class Listener(Protocol):
    """Receives the progress of a run, to display it."""

    def step(self, epoch: int, batch: int, batches: int, loss: float) -> None: ...

    def epoch(self, metrics: EpochMetrics) -> None: ...


class Trainer:
    """Trains ``model`` in place; writes checkpoints, metrics and the best weights to ``folder``."""

    def __init__(
        self, model: MoViNet, split: Split, config: TrainConfig, folder: Path, group: Group
    ) -> None:
        self._model, self._split, self._config, self._group = model, split, config, group
        self._device = next(model.parameters()).device
        self._sampler = TrainingSampler(len(split.training), config.batch, group, config.seed)
        self._optimizer = _optimizer(model, config)
        modules: dict[str, Any] = {"model": model, "optimizer": self._optimizer}
        self._local: nn.Module = TrainingModel(model, config.step)
        self._teacher: TrainingModel | None = None
        if config.qat:
            self._teacher = copy.deepcopy(self._local).eval()
            self._local = QuantizedTrainingModel(self._local)
            modules["ranges"] = self._local.ranges
        self._distributed = self._local
        if group.size > 1:
            devices = [self._device] if self._device.type == "cuda" else None
            self._distributed = nn.parallel.DistributedDataParallel(
                self._local, devices, broadcast_buffers=False
            )
        settings = {
            **{k: v for k, v in asdict(config).items() if k not in ("workers", "save_every")},
            "qat": config.qat or None,  # None as in the runs of before there was any
            "variant": model.variant.name,
            "classes": list(split.classes),
            "videos": len(split.training),
            "processes": group.size,
        }
        self._folder = RunFolder(folder, settings, modules)
        self._unreadable: dict[str, str] = {}

    @property
    def unreadable(self) -> dict[str, str]:
        """The unreadable videos that were skipped, by name, with the reasons."""
        return dict(sorted(self._unreadable.items()))

    def train(self, listener: Listener, *, resume: bool) -> tuple[EpochMetrics, ...]:
        """Train to the end, from the checkpoint in the folder if ``resume``; returns all metrics.

        Raises UsageError if the folder already has a run and ``resume`` is false, and VideoError if
        no video can be read.
        """
        progress = self._start(resume)
        self._unreadable.update(progress.unreadable)
        config, sampler = self._config, self._sampler
        clips = Clips(self._split.training, config.clip, seed=config.seed)
        batches = loader(clips, sampler, config.workers)
        while progress.epoch < config.epochs:
            sampler.epoch, sampler.start = progress.epoch, progress.batch
            self._local.train()
            before = time.monotonic() - progress.seconds
            for batch in batches:
                loss = self._step(batch, progress.epoch * len(sampler) + progress.batch)
                progress = replace(
                    progress,
                    batch=progress.batch + 1,
                    loss_sum=progress.loss_sum + loss,
                    seconds=time.monotonic() - before,
                )
                listener.step(progress.epoch, progress.batch, len(sampler), loss)
                if progress.batch % config.save_every == 0:
                    self._save(progress)
            progress = self._finish_epoch(progress, listener)
        return progress.history

    def _start(self, resume: bool) -> Progress:
        if not self._folder.checkpoint.exists():
            torch.manual_seed(self._config.seed + self._group.rank)
            return Progress()
        if not resume:
            raise UsageError(
                f"{self._folder.path} already has a run; add --resume to continue it, or name "
                "another folder."
            )
        return self._folder.resume(self._group.rank)

    def _step(self, batch: Batch, step: int) -> float:
        self._unreadable.update(batch.unreadable)
        if batch.clips is None:
            raise self._nothing_readable()
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        clips, labels = batch.clips.to(self._device), batch.labels.to(self._device)
        loss = accumulate_gradients(
            self._distributed, self._config.step, clips, labels, self._teacher
        ).item()
        self._optimizer.step()
        self._optimizer.zero_grad()
        if not math.isfinite(loss):
            raise UsageError(
                f"The loss is {loss} at step {step}; a lower learning rate than "
                f"{self._config.learning_rate} may help. The last checkpoint is from before."
            )
        return loss

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then cosine decay."""
        config = self._config
        if step < config.warmup:
            return config.learning_rate * (step + 1) / config.warmup
        decay_steps = max(1, config.epochs * len(self._sampler) - config.warmup)
        done = min(1.0, (step - config.warmup) / decay_steps)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _finish_epoch(self, progress: Progress, listener: Listener) -> Progress:
        self._average_statistics()
        accuracy, loss = self._evaluate()
        for unreadable in self._group.gather(self._unreadable):
            self._unreadable.update(unreadable)
        step = (progress.epoch + 1) * len(self._sampler)
        metrics = EpochMetrics(
            epoch=progress.epoch + 1,
            step=step,
            learning_rate=self._learning_rate(step - 1),
            training_loss=progress.loss_sum / len(self._sampler),
            held_out_loss=loss,
            held_out_accuracy=accuracy,
            seconds=progress.seconds,
        )
        history = (*progress.history, metrics)
        if self._group.rank == 0:
            if accuracy >= max(row.held_out_accuracy for row in history):
                best = self._folder.path / BEST_NAME
                save_weights(self._model, best, labels=self._split.classes)
            self._folder.write_metrics(history)
        listener.epoch(metrics)
        progress = Progress(epoch=progress.epoch + 1, history=history)
        self._save(progress)
        return progress

    def _evaluate(self) -> tuple[float, float]:
        """Accuracy and mean loss over the readable held-out videos, of all processes."""
        self._local.eval()
        videos, config = self._split.held_out, self._config
        clips = Clips(videos, config.clip, seed=None)
        share = EvaluationSampler(len(videos), config.batch, self._group)
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in loader(clips, share, config.workers):
            self._unreadable.update(batch.unreadable)
            if batch.clips is not None:
                on_device = batch.clips.to(self._device), batch.labels.to(self._device)
                correct, loss = evaluate_batch(self._local, config.step, *on_device)
                sums += torch.tensor([correct, loss, len(batch.labels)], dtype=torch.float64)
        if self._group.size > 1:
            torch.distributed.all_reduce(sums)
        correct, loss, read = sums.tolist()
        if not read:
            raise self._nothing_readable()
        return correct / read, loss / read

    def _nothing_readable(self) -> VideoError:
        first = next(iter(self._unreadable.values()))
        return VideoError(
            f"None of {len(self._unreadable)} videos could be read, the first because: {first}"
        )

    def _save(self, progress: Progress) -> None:
        self._average_statistics()
        rng_states = self._group.gather(rng_state())
        if self._group.rank == 0:
            self._folder.save(replace(progress, unreadable=self.unreadable), rng_states)
        self._group.wait()

    @torch.no_grad()
    def _average_statistics(self) -> None:
        """Average the moving statistics and ranges over all processes."""
        if self._group.size > 1:
            for statistic in self._local.buffers():
                shared: Any = statistic.cpu() / self._group.size  # the process group is gloo's
                torch.distributed.all_reduce(shared)
                statistic.copy_(shared)


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; as in the official recipe, weight decay applies to kernels only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)
