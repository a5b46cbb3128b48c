"""Entry points for torch.hub, such as ``torch.hub.load(REPOSITORY, "movinet", "a0-stream")``."""

from __future__ import annotations

from typing import Any

dependencies = ["torch", "safetensors", "numpy", "yaml", "pydantic", "requests", "platformdirs"]


def movinet(
    name: str, *, pretrained: bool = True, num_classes: int | None = None, **options: Any
) -> Any:
    """A MoViNet such as ``a0-stream``.

    With ``pretrained`` the converted weights of the store, which are made from Google's release
    where there are none yet; ``options`` go to ``movinet_convert.load_converted``. Otherwise
    random weights, for training.
    """
    from movinet_convert import convert, create_model, load_converted
    from movinet_convert.fetch import fetch_release
    from movinet_convert.sources import release
    from movinet_convert.store import Store, store_folder
    from movinet_convert.variants import KINETICS_600_CLASSES, get_variant

    if not pretrained:
        return create_model(name, num_classes=num_classes or KINETICS_600_CLASSES)
    variant = get_variant(name)
    folder = options.get("weights_dir")
    if not Store(store_folder(folder)).manifest().versions(variant.name):
        convert(variant.name, release(fetch_release(variant)), out=folder, parity=None)
    return load_converted(variant.name, num_classes=num_classes, **options)
