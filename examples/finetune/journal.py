"""What a run leaves behind: checkpoints that survive a kill, and metrics as CSV."""

from __future__ import annotations

import csv
import importlib.util
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from examples.finetune.generators import restore
from movinet_convert.errors import MovinetError, UsageError, WeightsError
from movinet_convert.files.atomic import open_regular, replacing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CHECKPOINT_NAME = "last.pt"
METRICS_NAME = "metrics.csv"
TENSORBOARD_FOLDER = "tensorboard"


@dataclass(frozen=True)
class EpochMetrics:
    """One row of the table; losses are means, accuracies parts of one."""

    epoch: int
    step: int
    learning_rate: float
    training_loss: float
    held_out_loss: float
    held_out_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Progress:
    """Where a run stands: ``batch`` batches into ``epoch``, and what it has measured.

    ``unreadable`` says by the names of videos why they were left out.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: tuple[EpochMetrics, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)


class Journal:
    """The folder of a run. Files appear complete or not at all, so a kill costs no more than
    the work since the last checkpoint."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._settings = dict(settings)

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT_NAME

    def save(
        self, parts: Mapping[str, Any], progress: Progress, random: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep the state dicts of ``parts``, where the run stands, and ``random``, the
        ``random_state`` of every process."""
        content = {
            "settings": self._settings,
            "progress": asdict(progress),
            "random": list(random),
            "parts": {name: part.state_dict() for name, part in parts.items()},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.checkpoint) as unfinished:
            torch.save(content, unfinished)

    def resume(self, parts: Mapping[str, Any], rank: int = 0) -> Progress:
        """Put everything back as ``save`` found it, in the process of this ``rank``.

        Raises WeightsError for a file that is damaged or no checkpoint of a run, UsageError where
        the run was started with other settings.
        """
        content = self._read()
        self._require_same(content["settings"])
        try:
            for name, part in parts.items():
                part.load_state_dict(content["parts"][name])
            restore(content["random"][rank])
            progress = dict(content["progress"])
            history = tuple(EpochMetrics(**row) for row in progress.pop("history"))
            return Progress(**progress, history=history)
        except MovinetError:
            raise
        except Exception as error:
            raise self._unusable(error) from error

    def _read(self) -> dict[str, Any]:
        try:
            with open_regular(self.checkpoint, WeightsError) as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
            if not isinstance(content["settings"], dict):
                raise TypeError("settings")
        except MovinetError:
            raise
        except Exception as error:
            raise self._unusable(error) from error
        return dict(content)

    def _unusable(self, error: Exception) -> WeightsError:
        return WeightsError(
            f"{self.checkpoint} cannot be resumed ({type(error).__name__}); it is damaged or no "
            "checkpoint of this version of the script: start over in another folder."
        )

    def _require_same(self, settings: Mapping[str, Any]) -> None:
        for name, value in self._settings.items():
            if settings.get(name) != value:
                raise UsageError(
                    f"The run in {self.folder} was started with {name} {settings.get(name)}, not "
                    f"{value}; resume it with the same, or start over in another folder."
                )

    def write_metrics(self, history: tuple[EpochMetrics, ...]) -> None:
        """Write all rows; a resumed run thus loses those that came after its checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (
            replacing(self.folder / METRICS_NAME) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, list(EpochMetrics.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(asdict(row) for row in history)

    def write_tensorboard(self, row: EpochMetrics) -> None:
        """Add a row to TensorBoard's log, if TensorBoard is installed."""
        if importlib.util.find_spec("tensorboard") is None:
            return
        # TensorBoard imports TensorFlow where there is one, which then reports on itself.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.folder / TENSORBOARD_FOLDER) as writer:
            for name, value in asdict(row).items():
                if name not in ("epoch", "step"):
                    writer.add_scalar(name, value, row.step)
