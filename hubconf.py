"""Entry points for torch.hub, such as ``torch.hub.load(REPOSITORY, "movinet", "a0-stream")``."""

from __future__ import annotations

import warnings
from typing import Any

dependencies = [
    "torch",
    "safetensors",
    "numpy",
    "click",
    "ruamel.yaml",
    "pydantic",
    "requests",
    "urllib3",
    "platformdirs",
    "rich",
    "jinja2",
    "h5py",
    "google_crc32c",
    "filelock",
    "tflite",
    "flatbuffers",
]


def movinet(
    name: str, *, pretrained: bool = True, num_classes: int | None = None, **options: Any
) -> Any:
    """A MoViNet such as ``a0-stream``.

    With ``pretrained`` the converted weights of the store; ``options`` go to
    ``movinet_convert.load_converted``. Where the store has none yet, they are made from Google's
    release, with a warning that nothing compared them with the official model, which needs
    TensorFlow. Otherwise random weights, for training; ``options`` go to ``create_model``.
    """
    from movinet_convert import convert, create_model, load_converted
    from movinet_convert.conversion.sources import release
    from movinet_convert.download.fetch import fetch_release
    from movinet_convert.model.settings import get_variant
    from movinet_convert.variants import KINETICS_600_CLASSES
    from movinet_convert.weights.store import Store, store_folder

    if not pretrained:
        classes = KINETICS_600_CLASSES if num_classes is None else num_classes
        return create_model(name, num_classes=classes, **options)
    variant = get_variant(name)
    folder = options.get("weights_dir")
    if not Store(store_folder(folder)).manifest().versions(variant.name):
        convert(variant.name, release(fetch_release(variant)), out=folder, parity=None)
        warnings.warn(
            f"The weights of {variant.name} were converted from Google's release without comparing "
            "them with the official model; to compare them, install the extra [tf] and run "
            f"movinet-convert verify {variant.name}.",
            UserWarning,
            stacklevel=2,
        )
    return load_converted(variant.name, num_classes=num_classes, **options)
