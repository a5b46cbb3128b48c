"""Google's TensorFlow MoViNet checkpoints as verified PyTorch weights.

>>> from movinet_convert import load_converted
>>> model = load_converted("a0-stream")
>>> logits = model(clip)                         # (B, 3, T, H, W), RGB in [0, 1]
>>> logits, state = model.stream(frames, state)  # state=None starts a video
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from movinet_convert.convert import convert as convert
    from movinet_convert.loader import load_converted as load_converted
    from movinet_convert.model import MoViNet as MoViNet
    from movinet_convert.model import StreamState as StreamState
    from movinet_convert.model import create_model as create_model
    from movinet_convert.save import save_weights as save_weights
    from movinet_convert.training.freeze import freeze_backbone as freeze_backbone
    from movinet_convert.training.freeze import unfreeze_backbone as unfreeze_backbone
    from movinet_convert.variants import list_variants as list_variants
    from movinet_convert.verify import verify as verify

__version__ = "0.1.0"

# What stands where; imported when first used, so that importing the package costs nothing.
_EXPORTS = {
    "convert": "movinet_convert.convert",
    "load_converted": "movinet_convert.loader",
    "MoViNet": "movinet_convert.model",
    "StreamState": "movinet_convert.model",
    "create_model": "movinet_convert.model",
    "freeze_backbone": "movinet_convert.training.freeze",
    "unfreeze_backbone": "movinet_convert.training.freeze",
    "list_variants": "movinet_convert.variants",
    "save_weights": "movinet_convert.save",
    "verify": "movinet_convert.verify",
}

__all__ = ["__version__", *_EXPORTS]


class _Package(ModuleType):
    """Imports an export when it is first asked for.

    Importing ``movinet_convert.convert`` would make Python bind the module over the function of
    the same name; here the function stays.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _EXPORTS:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(_EXPORTS[name]), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _EXPORTS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted(__all__)


sys.modules[__name__].__class__ = _Package
