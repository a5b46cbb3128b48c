"""TFLite files as a checkpoint layout: the weights and settings that a graph computes with.

``file`` reads the flatbuffer, ``graph`` and ``layers`` recognise operators, ``network`` matches a
MoViNet, ``structure`` compares every size with the family, and ``weights`` names the variables.
"""

from movinet_convert.checkpoint.tflite.file import has_tflite_magic
from movinet_convert.checkpoint.tflite.weights import open_tflite

__all__ = ["has_tflite_magic", "open_tflite"]
