"""What a converted file says of itself: the description in its header, without its tensors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic

from movinet_convert.model.settings import check_settings, get_variant
from movinet_convert.variants import Origins, Settings

if TYPE_CHECKING:  # descriptions are read where no network is needed, without torch
    from movinet_convert.model import MoViNet

FORMAT_VERSION: Literal[2] = 2  # files of format 1, without digest, can still be read

Dtype = Literal["float32", "float16", "bfloat16"]
# The origin of the weights: a Google release with a pinned digest, one without, random seeded
# weights, or a user's checkpoint.
SourceKind = Literal["release", "unpinned", "synthetic", "checkpoint"]
Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]
ClassCount = Annotated[int, pydantic.Field(gt=0, le=1_000_000)]


class Header(pydantic.BaseModel):
    """The description of a file.

    ``source_digest`` is the sha256 of the converted TensorFlow variables, the same for every
    checkpoint layout; None for weights trained in PyTorch. ``source`` is the kind of weights,
    ``origins`` the source of each setting that no checkpoint determines. ``digest`` is None in
    files of format 1 and before a file is written.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1, 2] = FORMAT_VERSION
    variant: str
    settings: Settings
    num_classes: ClassCount
    source: SourceKind | None = None
    origins: Origins | None = None
    source_digest: Sha256 | None = None
    labels: tuple[str, ...] | None = None
    digest: Sha256 | None = None

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Header:
        check_settings(get_variant(self.variant), self.settings)
        if self.labels is not None and len(self.labels) != self.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.num_classes} classes")
        if self.format_version == 1 and (self.source or self.origins or self.digest):
            raise ValueError("format 1 has no source, origins or digest")
        return self

    @classmethod
    def of_model(cls, model: MoViNet, labels: tuple[str, ...] | None = None) -> Header:
        """The description of a network; its own labels unless others are given."""
        return cls(
            variant=model.variant.name,
            settings=model.settings,
            num_classes=model.num_classes,
            origins=model.origins,
            labels=model.labels if labels is None else labels,
        )

    def to_json(self, *, digest: str | None) -> str:
        fields = self.model_copy(update={"digest": digest}).model_dump_json(exclude_none=True)
        return json.dumps(
            json.loads(fields), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )


def first_error(error: ValueError) -> str:
    """The first error of a pydantic validation and its location, on one line."""
    if not isinstance(error, pydantic.ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    # Keys and messages may quote the input, at any length.
    location = ".".join(str(key)[:60] for key in first["loc"])
    return f"{location}: {first['msg'][:300]}" if location else first["msg"][:300]
