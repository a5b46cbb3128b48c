"""``MoViNetForVideoClassification``: a MoViNet with the interface of transformers' models."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from movinet_convert.errors import UsageError
from movinet_convert.export.transformers.configuration import MoViNetConfig
from movinet_convert.export.transformers.loading import check_files
from movinet_convert.model import MoViNet
from movinet_convert.model.create import (
    align_matrices,
    initialize_classifier,
    initialize_module,
)
from movinet_convert.model.settings import get_variant
from movinet_convert.model.state import StreamState
from movinet_convert.weights.hub_files import FILE_NAME
from movinet_convert.weights.labels import Labels
from movinet_convert.weights.save import save_weights

NETWORK = "movinet"  # the attribute, and the prefix of its tensors' names


@dataclass
class MoViNetVideoClassifierOutput(ModelOutput):  # type: ignore[misc]
    """``loss`` if there were labels, ``logits`` (B, classes), and ``past`` of a stream variant."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past: StreamState | None = None


class MoViNetForVideoClassification(PreTrainedModel):  # type: ignore[misc]
    """A ``MoViNet``, which is ``model.movinet``, as a model of transformers.

    ``from_pretrained`` opens a folder or repository that ``export``, ``HubMoViNet`` or this class
    wrote, and compares its weights with their digest and with ``config.json``: WeightsError where
    they differ. ``save_pretrained`` writes ``model.safetensors`` as ``save_weights`` does.
    """

    config_class = MoViNetConfig
    base_model_prefix = NETWORK
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    _no_split_modules: ClassVar[list[str]] = ["MoViNet"]

    def __init__(self, config: MoViNetConfig) -> None:
        super().__init__(config)
        header = config.header()
        self.num_labels = config.num_labels
        self.movinet = MoViNet(get_variant(header.variant), header.settings, header.num_classes)
        self.movinet.origins, self.movinet.labels = header.origins, header.labels
        self.post_init()

    @classmethod
    def of(cls, model: MoViNet, labels: Labels | None = None) -> MoViNetForVideoClassification:
        """A model around the network itself, with its labels unless some are given.

        Raises UsageError if it is fused, or for a number of labels other than that of classes.
        """
        if model.fused:
            raise UsageError(
                "A fused network cannot be used in transformers; load it without fuse=True."
            )
        with torch.device("meta"):
            wrapped = cls(MoViNetConfig.of(model, labels))
        wrapped.movinet = model
        wrapped.train(model.training)
        return wrapped

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        pixel_values_videos: Tensor,
        labels: Tensor | None = None,
        past: StreamState | None = None,
        use_cache: bool | None = None,
    ) -> MoViNetVideoClassifierOutput:
        """Logits of clips, or of the latest frames of some videos.

        ``pixel_values_videos`` is (B, T, 3, H, W), RGB in [0, 1], as ``MoViNetVideoProcessor``
        makes them. ``labels`` are (B,) class indices, or (B, classes) of floats in
        ``problem_type="multi_label_classification"``. A stream variant continues from ``past``,
        None for the start of a video, and returns the next one if ``use_cache``, by default where
        no labels are given.

        Raises UsageError and StateError as ``MoViNet.forward`` and ``MoViNet.stream``.
        """
        clip = pixel_values_videos
        if clip.dim() == 5:
            clip = clip.transpose(1, 2)
        after = None
        if past is not None or self.movinet.settings.causal:
            logits, after = self.movinet.stream(clip, past)
        else:
            logits = self.movinet(clip)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        use_cache = labels is None if use_cache is None else use_cache
        return MoViNetVideoClassifierOutput(loss, logits, after if use_cache else None)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize a module unless its weights were loaded, which transformers marks."""
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if all(getattr(tensor, "_is_hf_initialized", False) for tensor in own):
            return
        if module is self.movinet.classifier.output:
            initialize_classifier(self.movinet)
        else:
            initialize_module(module)

    @staticmethod
    def _load_pretrained_model(
        model: MoViNetForVideoClassification,
        state_dict: Mapping[str, Tensor] | None,
        checkpoint_files: list[str] | None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        # Files have the names of a MoViNet's tensors; transformers adds ``base_model_prefix``.
        if state_dict is None and checkpoint_files:
            check_files(checkpoint_files, model.config.header())
        loaded = PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, *args, **kwargs
        )
        align_matrices(model)
        return loaded

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load this model's tensors, or those of a file, which ``Trainer`` passes to resume."""
        prefix = f"{NETWORK}."
        if any(name.startswith(prefix) for name in state_dict):
            return super().load_state_dict(state_dict, strict, assign)
        renamed = OrderedDict((f"{prefix}{name}", tensor) for name, tensor in state_dict.items())
        # PyTorch's versions and our settings, by module.
        metadata: Mapping[str, Any] = getattr(state_dict, "_metadata", {})
        renamed._metadata = {  # type: ignore[attr-defined]
            f"{prefix}{module}".removesuffix("."): entry for module, entry in metadata.items()
        }
        return super().load_state_dict(renamed, strict, assign)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write ``config.json`` and ``model.safetensors``, which ``load_converted`` reads too.

        ``state_dict`` are this model's tensors if they are elsewhere. The weights are one file:
        ``max_shard_size`` has no effect. With ``push_to_hub``, the rest are its arguments.
        """
        folder = Path(save_directory)
        if kwargs.pop("variant", None) is not None:
            raise UsageError(f"The weights of a MoViNet are called {FILE_NAME}; omit variant.")
        if is_main_process:
            tensors = self.state_dict() if state_dict is None else state_dict
            tensors = {name.removeprefix(f"{NETWORK}."): t for name, t in tensors.items()}
            self.config.architectures = [type(self).__name__]
            self.config.dtype = str(self.dtype).removeprefix("torch.")
            self.config.save_pretrained(folder)
            labels = self.config.header().labels
            save_weights(self.movinet, folder / FILE_NAME, labels=labels, tensors=tensors)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Do nothing: transformers would copy the source of this class into saved folders."""
