"""Networks on the Hugging Face Hub, or in a folder laid out like a repository there.

Needs the extra [hub]. A repository holds one converted file, ``model.safetensors``, which
describes itself; ``load_converted`` reads it too, once it is on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from movinet_convert.errors import MissingExtraError, WeightsError
from movinet_convert.loader import load_converted
from movinet_convert.model import MoViNet
from movinet_convert.weightfile import Header, read_header, write_weights

try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
except ImportError:
    raise MissingExtraError("Loading from and pushing to the Hugging Face Hub", "hub") from None

if TYPE_CHECKING:
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
        """A network that shares its weights with ``model``."""
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
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **_: Any,
    ) -> HubMoViNet:
        if Path(model_id).is_dir():
            path = Path(model_id) / FILE_NAME
        else:
            path = Path(
                hf_hub_download(
                    model_id,
                    FILE_NAME,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )
        if not path.is_file():
            raise WeightsError(f"{model_id} holds no {FILE_NAME}; push a network there first.")
        return cls.of(load_converted(path), read_header(path).labels)
