"""The model card of a repository on the Hugging Face Hub, made from what describes its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import jinja2

from movinet_convert.files.version import __version__
from movinet_convert.model.settings import get_variant, with_origins
from movinet_convert.variants import Accuracy, Variant
from movinet_convert.weights.entries import ConvertedVersion
from movinet_convert.weights.header import Header
from movinet_convert.weights.hub_files import HubAddress, is_hub_address
from movinet_convert.weights.labels import known_names

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD_NAME = "README.md"
LIBRARY = "movinet-convert"
TASK = "video-classification"
LICENSE = "apache-2.0"  # of the originals in the TensorFlow Model Garden
ACCURACY_SOURCE = "the official MoViNet README"
ACCURACY_URL = "https://github.com/tensorflow/models/tree/master/official/projects/movinet"
SHOWN_LABELS = 20
REHEARSAL_TAG = "rehearsal"


@dataclass(frozen=True)
class CardContent:
    """What a card says about weights; what is None or empty is not known.

    ``address`` is what ``load_converted`` takes, ``files`` the sha256 of the other files by name,
    ``versions`` what the comparison with the official model ran with. A ``rehearsal`` is of weights
    that nothing identifies as the release; its card says so.
    """

    header: Header
    address: str
    entry: ConvertedVersion | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    rehearsal: bool = False

    @property
    def variant(self) -> Variant:
        return get_variant(self.header.variant)

    @property
    def transformers_name(self) -> str:
        """What the library transformers takes: the repository, or the folder of the file."""
        if is_hub_address(self.address):
            return HubAddress.parse(self.address).repository
        return str(PurePosixPath(self.address).parent)

    @property
    def accuracy(self) -> Accuracy | None:
        """The published one, of a release alone."""
        return self.entry.published_accuracy(self.variant) if self.entry else None

    @property
    def is_google(self) -> bool:
        """Whether these are Google's weights, as far as known: their license is."""
        from_google = self.entry is not None and self.entry.source.kind in ("release", "unpinned")
        return from_google and not self.rehearsal


def model_card(content: CardContent) -> str:
    """The card: metadata in YAML that the Hub reads, and a page in Markdown."""
    header, variant = content.header, content.variant
    labels = known_names(header.labels, header.num_classes)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("movinet_convert.weights"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = "{:.1e}".format
    environment.filters["line"] = lambda text: " ".join(str(text).split())
    return environment.get_template("model_card.md").render(
        metadata=_metadata(content).to_yaml(),
        title=_title(variant),
        card=content,
        header=header,
        entry=content.entry,
        variant=variant,
        labels=labels[:SHOWN_LABELS] if labels else (),
        settings=with_origins(header.settings, header.origins),
        accuracy_source=ACCURACY_SOURCE,
        accuracy_url=ACCURACY_URL,
        converter=content.entry.converter if content.entry else __version__,
    )


def _title(variant: Variant) -> str:
    return f"MoViNet-{variant.arch.upper()}-{variant.mode.title()}"


def _metadata(content: CardContent) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    accuracy = content.accuracy
    values = {"Top-1": accuracy.top1, "Top-5": accuracy.top5} if accuracy else {}
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type="kinetics-600",
            dataset_name="Kinetics-600",
            metric_type="accuracy",
            metric_name=f"{name} accuracy (%)",
            metric_value=value,
            source_name=ACCURACY_SOURCE,
            source_url=ACCURACY_URL,
        )
        for name, value in values.items()
        if value is not None
    ]
    return ModelCardData(
        license=LICENSE if content.is_google else None,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=["movinet", "pytorch", *([REHEARSAL_TAG] if content.rehearsal else [])],
        model_name=_title(content.variant) if results else None,
        eval_results=results or None,
    )


def write_card(folder: Path, content: CardContent) -> None:
    """Write the card of a folder; not atomically, nobody may read the folder yet."""
    (folder / CARD_NAME).write_text(model_card(content), "utf-8")
