"""Networks on the Hugging Face Hub, or in a folder laid out like a repository there.

Needs the extra [hub]. A repository holds one converted file, ``model.safetensors``, which
describes itself; ``load_converted`` reads it too, once it is on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from movinet_convert.errors import MissingExtraError, UsageError, WeightsError
from movinet_convert.model import MoViNet
from movinet_convert.weights.file import Header, read_header, write_weights
from movinet_convert.weights.load import load_converted

try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError
except ImportError:
    raise MissingExtraError("Loading from and pushing to the Hugging Face Hub", "hub") from None

from collections.abc import Sequence

FILE_NAME = "model.safetensors"


class HubMoViNet(
    MoViNet,
    ModelHubMixin,
    library_name="movinet-convert",
    pipeline_tag="video-classification",
    tags=["movinet"],
):
    """A network with ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``.

    ``labels`` are the names of its classes, if they are known.
    """

    labels: tuple[str, ...] | None = None

    @classmethod
    def of(cls, model: MoViNet, labels: Sequence[str] | None = None) -> HubMoViNet:
        """A network that shares its weights with ``model``; UsageError if it is fused."""
        if model.fused:
            raise UsageError(
                "A fused network cannot go to the Hub; pass the one it was made of, loaded without "
                "fuse=True."
            )
        with torch.device("meta"):
            made = cls(model.variant, model.settings, model.num_classes)
        made.load_state_dict(model.state_dict(), assign=True)
        made.origins = model.origins
        made.labels = tuple(labels) if labels is not None else None
        made.train(model.training)
        return made

    def _save_pretrained(self, save_directory: Path) -> None:
        header = Header.of_model(self, labels=self.labels)
        write_weights(save_directory / FILE_NAME, self.state_dict(), header)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        num_classes: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> HubMoViNet:
        """The network of a repository, or of a folder laid out like one, in eval mode.

        ``num_classes``, ``device`` and ``dtype`` are those of ``load_converted``; a network with a
        new last layer has no labels. The weights describe themselves: ``config.json`` is not read.

        Raises WeightsError where there is no such file or it is damaged, UsageError for less than
        one class.
        """
        repository = str(pretrained_model_name_or_path)
        if Path(repository).is_dir():
            path = Path(repository) / FILE_NAME
        else:
            path = _download(
                repository,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        if not path.is_file():
            raise WeightsError(f"{repository} holds no {FILE_NAME}; push a network there first.")
        model = load_converted(path, num_classes=num_classes, device=device, dtype=dtype)
        header = read_header(path)
        return cls.of(model, header.labels if model.num_classes == header.num_classes else None)


def _download(repository: str, **options: Any) -> Path:
    try:
        return Path(hf_hub_download(repository, FILE_NAME, **options))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise WeightsError(
            f"{FILE_NAME} of {repository} cannot be had from the Hub ({reason}); check the name, "
            "the revision and the connection, or name a folder on disk."
        ) from error
