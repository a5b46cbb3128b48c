"""``MoViNetConfig``: the variant, its settings and its classes, as ``config.json`` has them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pydantic
from transformers import PreTrainedConfig

from movinet_convert.errors import UsageError
from movinet_convert.model import MoViNet
from movinet_convert.model.settings import DEFAULT_ORIGINS, get_variant
from movinet_convert.variants import KINETICS_600_CLASSES
from movinet_convert.weights.header import Header, first_error
from movinet_convert.weights.labels import Labels, class_names, given_names
from movinet_convert.weights.transformers_files import (
    AUTO_MAP,
    CODE,
    CODE_NAME,
    MODEL_TYPE,
    config_fields,
)


class MoViNetConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers is optional
    """The configuration of a ``MoViNetForVideoClassification``.

    ``variant`` is a name such as ``a0-stream``; ``settings`` the fields of ``variants.Settings``,
    those of the released models if None; ``origins`` where they came from, if known. ``num_frames``
    is how many frames of a video a pipeline takes, by default as many as in the evaluation. The
    classes are those of Kinetics-600 unless ``num_labels`` or ``id2label`` is given.

    ``MoViNetConfig.of(create_model("a0-stream", gating="model-garden"))`` is that of a network.

    Raises UsageError for an unknown variant, and settings that it cannot have.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past"]  # by ``Trainer``, in evaluation

    def __init__(
        self,
        variant: str = "a0-base",
        settings: Mapping[str, Any] | None = None,
        origins: Mapping[str, str] | None = None,
        num_frames: int | None = None,
        **kwargs: Any,
    ) -> None:
        known = get_variant(variant)
        if kwargs.get("id2label") is None and kwargs.get("num_labels") is None:
            names = class_names(None, KINETICS_600_CLASSES)
            kwargs |= {
                "id2label": dict(enumerate(names)),
                "label2id": {name: index for index, name in enumerate(names)},
            }
        super().__init__(**kwargs)
        if settings is None:
            settings, origins = vars(known.settings()), vars(DEFAULT_ORIGINS)
        self.variant = variant
        self.settings = dict(settings)
        self.origins = None if origins is None else dict(origins)
        self.num_frames = known.input.frames if num_frames is None else num_frames
        self.header()

    @classmethod
    def of(cls, model: MoViNet, labels: Labels | None = None) -> MoViNetConfig:
        """That of a network, and its labels unless some are given; UsageError for their number."""
        header = Header.of_model(model, labels=given_names(labels, model.num_classes))
        return cls(**config_fields(header), dtype=str(model.dtype).removeprefix("torch."))

    def header(self) -> Header:
        """What the header of the weights says of the same network; UsageError if none can be so."""
        try:
            return Header.model_validate(
                {
                    "variant": self.variant,
                    "settings": self.settings,
                    "num_classes": self.num_labels,
                    "origins": self.origins,
                    "labels": self._labels(),
                }
            )
        except pydantic.ValidationError as error:
            raise UsageError(
                f"A configuration of {self.variant} is of no network ({first_error(error)}); "
                "restore config.json, or export the network again."
            ) from None

    def _labels(self) -> tuple[str, ...] | None:
        """The names of the classes, or None if they are placeholders."""
        count = self.num_labels
        names = tuple(self.id2label.get(index) for index in range(count))
        generic = tuple(f"LABEL_{index}" for index in range(count))  # of transformers
        return None if names in (generic, class_names(None, count)) else names

    def to_diff_dict(self) -> dict[str, Any]:
        """As of transformers, which omits its own names for two classes, its default."""
        names = {"id2label": dict(self.id2label), "label2id": dict(self.label2id)}
        fields: dict[str, Any] = super().to_diff_dict()
        return fields | names

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """As of transformers, with the module that ``trust_remote_code=True`` imports."""
        self.auto_map = AUTO_MAP
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        (Path(save_directory) / CODE_NAME).write_text(CODE, "utf-8")
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing: transformers would copy the source of this class into saved folders."""
