"""The folder of a run: checkpoints that survive a kill, and metrics as CSV and for TensorBoard."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from movinet_convert.errors import MovinetError, UsageError, WeightsError
from movinet_convert.files.reading import open_regular
from movinet_convert.files.writing import replacing

CHECKPOINT_NAME = "last.pt"
METRICS_NAME = "metrics.csv"
TENSORBOARD_FOLDER = "tensorboard"


@dataclass(frozen=True)
class EpochMetrics:
    """One row of the table; losses are means, accuracies from 0 to 1.

    ``held_out_accuracy`` is None with several labels per video, where ``held_out_precision`` is the
    mean average precision.
    """

    epoch: int
    step: int
    learning_rate: float
    training_loss: float
    held_out_loss: float
    held_out_accuracy: float | None
    seconds: float
    held_out_top5: float | None = None
    held_out_precision: float | None = None

    @property
    def score(self) -> float:
        """What the best weights have the most of."""
        found = self.held_out_accuracy
        return (self.held_out_precision or 0.0) if found is None else found


@dataclass(frozen=True)
class Progress:
    """The progress of a run: ``batch`` batches into ``epoch``, with its measurements.

    ``unreadable`` has the skipped videos by name, with the reasons.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: tuple[EpochMetrics, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)


def rng_state() -> dict[str, Any]:
    """The states of PyTorch's random generators, used by dropout and stochastic depth.

    No other state is needed: data loading is seeded by the seed, the epoch and the video.
    """
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": list(gpus)}


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what ``rng_state`` returned, for as many GPUs as this machine has."""
    torch.set_rng_state(state["cpu"])
    gpus = state["cuda"][: torch.cuda.device_count()] if torch.cuda.is_available() else []
    for device, generator in enumerate(gpus):
        torch.cuda.set_rng_state(generator, device)


class RunFolder:
    """The files of a run, written atomically: a kill loses the steps since the last ``save``.

    ``settings`` are those that a resumed run must share; ``modules`` are saved by state dict.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], modules: Mapping[str, Any]) -> None:
        self.path = path
        self._settings, self._modules = dict(settings), modules

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT_NAME

    def save(self, progress: Progress, rng_states: Sequence[Mapping[str, Any]]) -> None:
        """Write a checkpoint; ``rng_states`` are those of every process, by rank."""
        content = {
            "settings": self._settings,
            "progress": asdict(progress),
            "rng_states": list(rng_states),
            "state_dicts": {name: module.state_dict() for name, module in self._modules.items()},
        }
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.checkpoint) as unfinished:
            torch.save(content, unfinished)

    def resume(self, rank: int = 0) -> Progress:
        """Restore the modules and the random generators of the process ``rank``.

        Raises WeightsError for a file that is damaged or not a checkpoint of a run, UsageError if
        the run was started with other settings.
        """
        try:
            with open_regular(self.checkpoint, WeightsError) as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
            self._require_same(dict(content["settings"]))
            for name, module in self._modules.items():
                module.load_state_dict(content["state_dicts"][name])
            set_rng_state(content["rng_states"][rank])
            progress = dict(content["progress"])
            history = tuple(EpochMetrics(**row) for row in progress.pop("history"))
            return Progress(**progress, history=history)
        except MovinetError:
            raise
        except Exception as error:
            raise WeightsError(
                f"{self.checkpoint} cannot be resumed ({type(error).__name__}); it is damaged or "
                "not a checkpoint of this version of the script: start over in another folder."
            ) from error

    def _require_same(self, settings: Mapping[str, Any]) -> None:
        for name, value in self._settings.items():
            if settings.get(name) != value:
                raise UsageError(
                    f"The run in {self.path} was started with {name} {settings.get(name)}, not "
                    f"{value}; resume it with the same, or start over in another folder."
                )

    def write_metrics(self, history: Sequence[EpochMetrics]) -> None:
        """Write all rows as CSV, and the last for TensorBoard if it is installed.

        All rows, so that a resumed run drops those after its checkpoint.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (
            replacing(self.path / METRICS_NAME) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, [column.name for column in fields(EpochMetrics)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in history)
        if importlib.util.find_spec("tensorboard") is None:
            return
        # TensorBoard imports TensorFlow if it is installed, which then logs its start-up.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.path / TENSORBOARD_FOLDER) as board:
            for name, value in asdict(history[-1]).items():
                if name not in ("epoch", "step") and value is not None:
                    board.add_scalar(name, value, history[-1].step)
