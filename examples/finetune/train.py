"""The training loop: epochs of steps, an evaluation after each epoch, regular checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
from torch import nn

from examples.finetune.augmentation import Augmentation
from examples.finetune.checkpoint import EpochMetrics, Progress, RunFolder, rng_state
from examples.finetune.data import Batch, Clips, ClipSpec, loader
from examples.finetune.ema import WeightAverage
from examples.finetune.evaluation import Evaluation, EvaluationConfig, Evaluator
from examples.finetune.optimizer import OptimizerConfig, Updates
from examples.finetune.quantization import QuantizedTrainingModel
from examples.finetune.sampling import TrainingSampler, frequencies
from examples.finetune.splits import Split
from examples.finetune.step import StepConfig, TrainingModel, accumulate_gradients
from examples.finetune.synchronization import synchronize
from movinet_convert import save_weights
from movinet_convert.errors import UsageError, VideoError
from movinet_convert.model import MoViNet
from movinet_convert.video.processes import Group

BEST_NAME = "best.safetensors"
OF_THE_MACHINE = ("workers", "save_every")  # these settings may differ in a resumed run


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run; ``batch`` is per process.

    ``ema``: the decay of the average of the weights, None for none. ``balance``: from 0, all videos
    equally often, to 1, all classes. ``synchronize``: batch normalisation over all processes.
    """

    clip: ClipSpec
    step: StepConfig
    epochs: int
    batch: int
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ema: float | None = None
    balance: float = 0.0
    synchronize: bool = True
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
        if split.multi_label and config.step.label_smoothing:
            raise UsageError("Labels of several classes are not smoothed; use --label-smoothing 0.")
        self._model, self._split, self._config, self._group = model, split, config, group
        self._device = next(model.parameters()).device
        often = frequencies(split.training, config.balance)
        self._sampler = TrainingSampler(often, config.batch, group, config.seed)
        self._evaluator = Evaluator(
            split, config.clip, config.evaluation, config.batch, config.workers, group
        )
        self._updates = Updates(model, config.optimizer)
        modules: dict[str, Any] = {"model": model, "optimizer": self._updates.optimizer}
        self._local: nn.Module = TrainingModel(model, config.step)
        self._teacher: TrainingModel | None = None
        if config.qat:
            self._teacher = copy.deepcopy(self._local).eval()
            self._local = QuantizedTrainingModel(self._local)
            modules["ranges"] = self._local.ranges
        self._distributed = self._local
        if group.size > 1:
            if config.synchronize:
                synchronize(self._local, group)
            devices = [self._device] if self._device.type == "cuda" else None
            self._distributed = nn.parallel.DistributedDataParallel(
                self._local, devices, broadcast_buffers=False
            )
        # After DistributedDataParallel, which gives all processes the weights of the first.
        self._average = None if config.ema is None else WeightAverage(model, config.ema)
        if self._average is not None:
            modules["average"] = self._average
        settings = {
            **_flat(asdict(config)),
            "variant": model.variant.name,
            "classes": list(split.classes),
            "videos": len(split.training),
            "processes": group.size,
        }
        self._folder = RunFolder(folder, settings, modules)
        self._unreadable: dict[str, str] = {}
        self.evaluation: Evaluation | None = None  # the latest

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
        clips = Clips(
            self._split.training,
            len(self._split.classes),
            config.clip,
            config.augmentation,
            config.seed,
        )
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
        clips, targets = batch.clips[:, 0].to(self._device), batch.targets.to(self._device)
        loss = self._mean(
            accumulate_gradients(
                self._distributed, self._config.step, clips, targets, self._teacher
            )
        )
        self._updates.step(self._learning_rate(step))
        if self._average is not None:
            self._average.update()
        if not math.isfinite(loss):
            peak = self._config.optimizer.learning_rate
            raise UsageError(
                f"The loss is {loss} at step {step}; a lower learning rate than {peak} may help. "
                "The last checkpoint is from before."
            )
        return loss

    def _mean(self, loss: torch.Tensor) -> float:
        """The mean over the processes, whose batches have the same size."""
        shared = loss.double().cpu()
        if self._group.size > 1:
            torch.distributed.all_reduce(shared)
        return float(shared) / self._group.size

    def _learning_rate(self, step: int) -> float:
        steps = self._config.epochs * len(self._sampler)
        return self._config.optimizer.learning_rate_at(step, steps)

    def _finish_epoch(self, progress: Progress, listener: Listener) -> Progress:
        self._average_statistics()
        evaluation = self.evaluate()
        for unreadable in self._group.gather(self._unreadable):
            self._unreadable.update(unreadable)
        step = (progress.epoch + 1) * len(self._sampler)
        several = evaluation.precision is not None
        metrics = EpochMetrics(
            epoch=progress.epoch + 1,
            step=step,
            learning_rate=self._learning_rate(step - 1),
            training_loss=progress.loss_sum / len(self._sampler),
            held_out_loss=evaluation.loss,
            held_out_accuracy=None if several else evaluation.score,
            held_out_top5=evaluation.top5,
            held_out_precision=evaluation.score if several else None,
            seconds=progress.seconds,
        )
        history = (*progress.history, metrics)
        if self._group.rank == 0:
            if metrics.score >= max(row.score for row in history):
                self.save_weights(self._folder.path / BEST_NAME)
            self._folder.write_metrics(history)
        listener.epoch(metrics)
        progress = Progress(epoch=progress.epoch + 1, history=history)
        self._save(progress)
        return progress

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the averages of its weights while this is open, if there are any."""
        with nullcontext() if self._average is None else self._average.swapped():
            yield

    def evaluate(self) -> Evaluation:
        """Of the readable held-out videos, with the averages of the weights if there are any.

        Leaves the network in eval mode. Raises VideoError if no video can be read.
        """
        self._local.eval()
        with self.averaged():
            evaluation = self._evaluator(self._local, self._config.step)
        if evaluation is None:
            raise self._nothing_readable()
        self._unreadable.update(evaluation.unreadable)
        self.evaluation = evaluation
        return evaluation

    def save_weights(self, path: Path) -> Path:
        """Write the network, with the averages of its weights if there are any."""
        with self.averaged():
            return save_weights(self._model, path, labels=self._split.classes)

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


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that a resumed run must share, by name: ``optimizer.learning_rate``."""
    settings: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            settings.update({f"{name}.{part}": v for part, v in value.items()})
        elif name not in OF_THE_MACHINE:
            settings[name] = value
    return settings
