"""Entry points for torch.hub, such as ``torch.hub.load(REPOSITORY, "movinet", "a0-stream")``."""

from __future__ import annotations

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
    "psutil",
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
    ``movinet_convert.load_converted``, with ``download=True``: where the store has none yet, they
    are converted from Google's release. Otherwise random weights, for training; ``options`` go to
    ``create_model``.
    """
    from movinet_convert import create_model, load_converted
    from movinet_convert.variants import KINETICS_600_CLASSES

    if pretrained:
        return load_converted(name, num_classes=num_classes, download=True, **options)
    classes = KINETICS_600_CLASSES if num_classes is None else num_classes
    return create_model(name, num_classes=classes, **options)
