"""The network: layers, blocks, stream state, and how it is created."""

from __future__ import annotations

from typing import TYPE_CHECKING

from movinet_convert.files.lazy import lazy_attributes

if TYPE_CHECKING:
    from movinet_convert.model.create import create_model as create_model
    from movinet_convert.model.network import MoViNet as MoViNet
    from movinet_convert.model.state import StreamState as StreamState

# Imported on first use: the settings, which the manifest checks, need no torch.
_EXPORTS = {
    "MoViNet": "movinet_convert.model.network",
    "StreamState": "movinet_convert.model.state",
    "create_model": "movinet_convert.model.create",
}

__all__ = [*_EXPORTS]

__getattr__ = lazy_attributes(__name__, _EXPORTS)
