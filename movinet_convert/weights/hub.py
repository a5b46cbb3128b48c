"""Load networks from, and push them to, the Hugging Face Hub; needs the extra [hub].

A repository has one converted file, ``model.safetensors``, which ``load_converted`` also reads, and
what the library transformers needs to open it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.model import MoViNet
from movinet_convert.weights.file import write_weights
from movinet_convert.weights.header import Header
from movinet_convert.weights.hub_files import (
    FILE_NAME,
    HubAddress,
    download_weights,
    require_hub,
)
from movinet_convert.weights.labels import Labels, given_names
from movinet_convert.weights.load import load_file, locate
from movinet_convert.weights.model_card import LIBRARY, TASK, CardContent, model_card
from movinet_convert.weights.transformers_files import write_description

require_hub()
from huggingface_hub import ModelCard, ModelHubMixin  # noqa: E402


class HubMoViNet(
    MoViNet,
    ModelHubMixin,
    library_name=LIBRARY,
    pipeline_tag=TASK,
    tags=["movinet"],
):
    """A MoViNet with ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``."""

    @classmethod
    def of(cls, model: MoViNet, labels: Labels | None = None) -> HubMoViNet:
        """A network that shares its weights with ``model``, and its labels unless some are given.

        Raises UsageError if it is fused, or for a number of labels other than that of classes.
        """
        if model.fused:
            raise UsageError(
                "A fused network cannot be pushed to the Hub; load it without fuse=True."
            )
        with torch.device("meta"):
            hub_model = cls(model.variant, model.settings, model.num_classes)
        hub_model.load_state_dict(model.state_dict(), assign=True)
        hub_model.origins = model.origins
        hub_model.labels = given_names(labels, model.num_classes) or model.labels
        hub_model.train(model.training)
        return hub_model

    def _save_pretrained(self, save_directory: Path) -> None:
        header = Header.of_model(self)
        write_weights(save_directory / FILE_NAME, self.state_dict(), header)
        write_description(save_directory, header, str(self.dtype).removeprefix("torch."))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the network with its model card; ``options`` are those of ``ModelHubMixin``."""
        about_card = {"repository": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        return str(super().push_to_hub(repo_id, model_card_kwargs=about_card, **options))

    def generate_model_card(self, *_: Any, repository: str | None = None, **__: Any) -> ModelCard:
        """The card of the network in ``repository``, with code, settings and labels."""
        address = HubAddress(repository) if repository else FILE_NAME
        return ModelCard(model_card(CardContent(Header.of_model(self), str(address))))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        num_classes: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> HubMoViNet:
        """Load a network from a repository, or a folder with the same files, in eval mode.

        ``num_classes``, ``device`` and ``dtype`` are as in ``load_converted``; a network with a
        new classifier has no labels. ``config.json`` is not read: the weights file describes the
        network.

        Raises WeightsError if the file is missing or damaged, UsageError for ``num_classes < 1``.
        """
        path = Path(pretrained_model_name_or_path) / FILE_NAME
        if not path.parent.is_dir():
            path = download_weights(
                HubAddress(str(pretrained_model_name_or_path), revision),
                force_download=force_download,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        elif not path.is_file():
            raise WeightsError(f"{path.parent} has no {FILE_NAME}; save a network there first.")
        model = load_file(
            locate(path), num_classes=num_classes, device=device, dtype=dtype or torch.float32
        )
        return cls.of(model)
