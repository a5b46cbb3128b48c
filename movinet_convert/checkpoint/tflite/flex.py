"""The operators of a TFLite file that TensorFlow itself would run ("select TF ops").

TFLite has no grouped 3D convolution and no 3D pooling, so a base model has these two. Their
attributes are a ``NodeDef`` (tensorflow/core/framework/node_def.proto) in a flexbuffer.
"""

from __future__ import annotations

from typing import Any

from movinet_convert.checkpoint.protobuf import Buffer, as_bytes, fields

FLEX = ("FlexConv3D", "FlexAvgPool3D")
PADDING = ("SAME", "VALID")  # schema: Padding
_ATTRIBUTES, _LIST, _INTS, _STRING = 5, 1, 3, 2  # field numbers of NodeDef and AttrValue
_NAMES = {"strides": "Stride{}", "ksize": "Filter{}", "dilations": "Dilation{}Factor"}


def flex_options(stored: Any) -> dict[str, int]:
    """The attributes of such an operator, named like the options of TFLite's own."""
    from flatbuffers import flexbuffers

    name_and_node = flexbuffers.GetRoot(stored.CustomOptionsAsNumpy().tobytes()).AsVector
    attributes: dict[str, dict[int, int | Buffer]] = {}
    for number, attribute in fields(bytes(name_and_node[1].AsStringBytes)):
        if number == _ATTRIBUTES:
            (_, key), (_, value) = fields(as_bytes(attribute))
            attributes[bytes(as_bytes(key)).decode()] = dict(fields(as_bytes(value)))
    padding = bytes(as_bytes(attributes["padding"][_STRING])).decode()
    options = {"Padding": PADDING.index(padding)}
    for name, option in _NAMES.items():
        if name in attributes:
            sizes = dict(fields(as_bytes(attributes[name][_LIST])))[_INTS]
            _, *window, _ = bytes(as_bytes(sizes))  # one byte each: batch, D, H, W, channels
            for axis, size in zip("DHW", window, strict=True):
                options[option.format(axis)] = size
    return options
