"""The network: layers, blocks, stream state, and how it is created."""

from movinet_convert.model.create import create_model
from movinet_convert.model.network import MoViNet
from movinet_convert.model.state import StreamState

__all__ = ["MoViNet", "StreamState", "create_model"]
