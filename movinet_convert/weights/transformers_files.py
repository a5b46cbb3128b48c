"""What a folder or repository needs beside its weights to be read by transformers, as plain data.

``movinet_convert.export.transformers`` has the classes that these files name. transformers finds
them where that package was imported; elsewhere, with ``trust_remote_code=True``, by the module
``CODE_NAME`` that is written too, which imports it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from movinet_convert.model.settings import get_variant
from movinet_convert.model.transforms import ClipTransform
from movinet_convert.variants import Variant
from movinet_convert.weights.header import Header
from movinet_convert.weights.labels import class_names

CONFIG_NAME = "config.json"
PROCESSOR_NAME = "video_preprocessor_config.json"
CODE_NAME = "modeling_movinet.py"

MODEL_TYPE = "movinet"
CONFIG_CLASS = "MoViNetConfig"
MODEL_CLASS = "MoViNetForVideoClassification"
PROCESSOR_CLASS = "MoViNetVideoProcessor"
AUTO_CLASSES = {
    "AutoConfig": CONFIG_CLASS,
    "AutoModelForVideoClassification": MODEL_CLASS,
    "AutoVideoProcessor": PROCESSOR_CLASS,
}
AUTO_MAP = {auto: f"{Path(CODE_NAME).stem}.{name}" for auto, name in AUTO_CLASSES.items()}
CODE = f'''"""The classes of this model are those of movinet-convert.

pip install 'movinet-convert[transformers]'
"""

from movinet_convert.export.transformers import (
    {CONFIG_CLASS},
    {MODEL_CLASS},
    {PROCESSOR_CLASS},
)

__all__ = ["{CONFIG_CLASS}", "{MODEL_CLASS}", "{PROCESSOR_CLASS}"]
'''


def config_fields(header: Header) -> dict[str, Any]:
    """The fields of a ``MoViNetConfig``, for JSON.

    ``num_frames`` is how many frames of a video a pipeline takes: as many as in the evaluation.
    """
    names = class_names(header.labels, header.num_classes)
    return {
        "variant": header.variant,
        "settings": asdict(header.settings),
        "origins": None if header.origins is None else asdict(header.origins),
        "num_frames": get_variant(header.variant).input.frames,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def processor_fields(variant: Variant, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """The fields of a ``MoViNetVideoProcessor``, for JSON; ``size`` as of ``ClipTransform.of``."""
    transform = ClipTransform.of(variant, size)
    height, width = (transform.size,) * 2 if isinstance(transform.size, int) else transform.size
    return {
        "size": {"shortest_edge": transform.resize},
        "crop_size": {"height": height, "width": width},
        "fps": variant.input.fps,
    }


def write_description(folder: Path, header: Header, dtype: str) -> None:
    """Write the configurations of model and video processor, and the module that has the classes.

    Nothing is written atomically: the caller ensures that nobody reads an incomplete folder.
    """
    config = {
        **config_fields(header),
        "architectures": [MODEL_CLASS],
        "auto_map": AUTO_MAP,
        "dtype": dtype,
        "model_type": MODEL_TYPE,
    }
    processor = {
        **processor_fields(get_variant(header.variant)),
        "auto_map": AUTO_MAP,
        "video_processor_type": PROCESSOR_CLASS,
    }
    for name, fields in ((CONFIG_NAME, config), (PROCESSOR_NAME, processor)):
        text = json.dumps(fields, indent=2, ensure_ascii=False, sort_keys=True)
        (folder / name).write_text(f"{text}\n", "utf-8")
    (folder / CODE_NAME).write_text(CODE, "utf-8")
