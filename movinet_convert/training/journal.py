"""What a run leaves behind: checkpoints that survive a kill, and metrics as CSV."""

from __future__ import annotations

import csv
import importlib.util
import os
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from movinet_convert.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    """Where a run stands: ``batch`` batches into ``epoch``, and what it has measured."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: tuple[EpochMetrics, ...] = ()


class Journal:
    """The folder of a run. Files appear complete or not at all, so a kill costs no more than
    the work since the last checkpoint."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._settings = dict(settings)

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT_NAME

    def save(self, parts: Mapping[str, Any], progress: Progress) -> None:
        """Keep the state dicts of ``parts``, the random state and where the run stands."""
        content = {
            "settings": self._settings,
            "progress": asdict(progress),
            "random": torch.get_rng_state(),
            "parts": {name: part.state_dict() for name, part in parts.items()},
        }
        with _replaced(self.checkpoint) as unfinished:
            torch.save(content, unfinished)

    def resume(self, parts: Mapping[str, Any]) -> Progress:
        """Put everything back as ``save`` found it.

        Raises WeightsError for a file that is damaged, UsageError where the run was started with
        other settings.
        """
        try:
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            settings, progress = content["settings"], dict(content["progress"])
        except Exception as error:
            raise WeightsError(
                f"{self.checkpoint} cannot be read ({type(error).__name__}); it is damaged or no "
                "checkpoint of this script: begin anew in another folder."
            ) from error
        for name, value in self._settings.items():
            if settings.get(name) != value:
                raise UsageError(
                    f"The run in {self.folder} was started with {name} {settings.get(name)}, not "
                    f"{value}; resume it with the same, or begin anew in another folder."
                )
        for name, part in parts.items():
            part.load_state_dict(content["parts"][name])
        torch.set_rng_state(content["random"])
        history = tuple(EpochMetrics(**row) for row in progress.pop("history"))
        return Progress(**progress, history=history)

    def write_metrics(self, history: tuple[EpochMetrics, ...]) -> None:
        """Write all rows; a resumed run thus loses those that came after its checkpoint."""
        with (
            _replaced(self.folder / METRICS_NAME) as unfinished,
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


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """A file to fill, which then takes the place of ``target`` in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    unfinished = Path(temporary)
    try:
        yield unfinished
        unfinished.chmod(0o644)
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
