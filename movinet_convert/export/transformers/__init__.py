"""MoViNet for the library transformers; needs the extra [transformers].

Importing this package registers its classes, so that ``pipeline("video-classification", folder)``,
``AutoModelForVideoClassification`` and ``AutoVideoProcessor`` open a folder or repository that
``export`` or ``HubMoViNet`` wrote.
"""

from __future__ import annotations

from movinet_convert.files.extras import missing_extra

try:
    from transformers import AutoConfig, AutoModelForVideoClassification

    # ``from transformers import AutoVideoProcessor`` would need torchvision, which this does not.
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
except ImportError:
    raise missing_extra("Using a network in transformers", "transformers") from None

from movinet_convert.export.transformers.configuration import MoViNetConfig
from movinet_convert.export.transformers.modeling import (
    MoViNetForVideoClassification,
    MoViNetVideoClassifierOutput,
)
from movinet_convert.export.transformers.video_processing import MoViNetVideoProcessor
from movinet_convert.weights.transformers_files import MODEL_TYPE

AutoConfig.register(MODEL_TYPE, MoViNetConfig, exist_ok=True)
AutoModelForVideoClassification.register(
    MoViNetConfig, MoViNetForVideoClassification, exist_ok=True
)
AutoVideoProcessor.register(MoViNetConfig, MoViNetVideoProcessor, exist_ok=True)

__all__ = [
    "MoViNetConfig",
    "MoViNetForVideoClassification",
    "MoViNetVideoClassifierOutput",
    "MoViNetVideoProcessor",
]
