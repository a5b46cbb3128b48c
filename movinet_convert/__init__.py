"""Google's TensorFlow MoViNet checkpoints as verified PyTorch weights.

>>> from movinet_convert import load_converted
>>> model = load_converted("a0-stream")
>>> logits = model(clip)                         # (B, 3, T, H, W), RGB in [0, 1]
>>> logits, state = model.stream(frames, state)  # state=None starts a video
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from movinet_convert.conversion.loading import load_converted as load_converted
    from movinet_convert.conversion.pipeline import convert as convert
    from movinet_convert.conversion.verification import verify as verify
    from movinet_convert.export.exported import load_exported as load_exported
    from movinet_convert.model import MoViNet as MoViNet
    from movinet_convert.model import StreamState as StreamState
    from movinet_convert.model import create_model as create_model
    from movinet_convert.model.freeze import freeze_backbone as freeze_backbone
    from movinet_convert.model.freeze import unfreeze_backbone as unfreeze_backbone
    from movinet_convert.variants import list_variants as list_variants
    from movinet_convert.weights.save import save_weights as save_weights

from movinet_convert.files.lazy import lazy_attributes
from movinet_convert.files.version import __version__

# The public names and their modules, imported on first use: importing the package stays cheap.
_EXPORTS = {
    "convert": "movinet_convert.conversion.pipeline",
    "load_converted": "movinet_convert.conversion.loading",
    "load_exported": "movinet_convert.export.exported",
    "MoViNet": "movinet_convert.model",
    "StreamState": "movinet_convert.model",
    "create_model": "movinet_convert.model",
    "freeze_backbone": "movinet_convert.model.freeze",
    "unfreeze_backbone": "movinet_convert.model.freeze",
    "list_variants": "movinet_convert.variants",
    "save_weights": "movinet_convert.weights.save",
    "verify": "movinet_convert.conversion.verification",
}

__all__ = ["__version__", *_EXPORTS]

__getattr__ = lazy_attributes(__name__, _EXPORTS)


def __dir__() -> list[str]:
    return sorted(__all__)
