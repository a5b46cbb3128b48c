"""The one door to TensorFlow: lazy, quiet, and clear about what to install."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from movinet_convert.errors import MissingExtraError


@dataclass(frozen=True)
class TensorFlow:
    """The modules of the official implementation; untyped, since they carry no type hints."""

    tf: Any
    keras: Any  # Keras 2, which the Model Garden is written for
    movinet: Any  # official.projects.movinet.modeling.movinet
    movinet_model: Any  # official.projects.movinet.modeling.movinet_model


def import_tensorflow(what: str) -> TensorFlow:
    """Import TensorFlow and the Model Garden; MissingExtraError says ``what`` needed them.

    TensorFlow reports devices and compilers at import, which would drown the report of this tool;
    only its errors are let through, unless the user set ``TF_CPP_MIN_LOG_LEVEL``.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow as tf
            import tf_keras
            from official.projects.movinet.modeling import movinet, movinet_model
    except ImportError as error:
        raise MissingExtraError(what, "tf") from error
    tf.get_logger().setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    return TensorFlow(tf, tf_keras, movinet, movinet_model)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Building a Keras model makes millions of objects that stay; looking for those that can go
    takes a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
