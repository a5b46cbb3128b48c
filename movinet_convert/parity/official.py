"""The official TensorFlow model: the only module that imports TensorFlow and builds the model.

Source: ``official/projects/movinet/modeling`` of tf-models-official.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from movinet_convert.files.extras import missing_extra
from movinet_convert.variants import Settings

ANY_CLIP = (None, None, None, None, 3)  # (B, T, H, W, C)


@dataclass(frozen=True)
class TensorFlow:
    """The modules of the official implementation; untyped, since they carry no type hints."""

    tf: Any
    keras: Any  # Keras 2, which the Model Garden is written for
    movinet: Any  # official.projects.movinet.modeling.movinet
    movinet_model: Any  # official.projects.movinet.modeling.movinet_model


def import_tensorflow(purpose: str) -> TensorFlow:
    """Import TensorFlow and the Model Garden; MissingExtraError names the ``purpose``.

    TensorFlow logs devices and compilers at import. Only its errors are shown, unless the user set
    ``TF_CPP_MIN_LOG_LEVEL``.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow as tf
            import tf_keras
            from official.projects.movinet.modeling import movinet, movinet_model
    except ImportError as error:
        raise missing_extra(purpose, "tf") from error
    tf.get_logger().setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    return TensorFlow(tf, tf_keras, movinet, movinet_model)


def build_official(
    modules: TensorFlow,
    arch: str,
    settings: Settings,
    num_classes: int,
    *,
    clip_shape: Sequence[int | None] = ANY_CLIP,
    use_sync_bn: bool = False,
    simple_swish: bool = False,
) -> Any:
    """Build the official ``MovinetClassifier``, whose ``backbone`` is the ``Movinet``.

    Stream models take and return their states: ``{**states, "image": clip} -> (logits, states)``.
    ``model-garden`` gating is what the official code means by ``hard_sigmoid``; ``keras`` gating is
    Keras' function of that name, which the released checkpoints were trained with
    (tensorflow/models issue 13559). ``use_sync_bn`` matters in training alone. ``simple_swish`` is
    the swish without a gradient of its own, which a SavedModel cannot contain.
    """
    keras = modules.keras
    keras.backend.reset_uids()  # layer names count up in a process, and checkpoints record them
    gating = {
        "sigmoid": "sigmoid",
        "keras": keras.activations.hard_sigmoid,
        "model-garden": "hard_sigmoid",
    }[settings.gating]
    activation, head_activation = (
        "simple_swish" if simple_swish and name == "swish" else name
        for name in (settings.activation, settings.head_activation)
    )
    specs = keras.layers.InputSpec(shape=clip_shape)

    def build() -> Any:
        backbone = modules.movinet.Movinet(
            model_id=arch,
            causal=settings.causal,
            use_positional_encoding=settings.positional_encoding,
            conv_type=settings.conv_type,
            se_type=settings.se_type,
            input_specs=specs,
            activation=activation,
            gating_activation=gating,
            use_sync_bn=use_sync_bn,
            use_external_states=settings.causal,
        )
        return modules.movinet_model.MovinetClassifier(
            backbone,
            num_classes=num_classes,
            input_specs={"image": specs},
            activation=head_activation,
            output_states=settings.causal,
        )

    # No condition in this code depends on a tensor's value: converting it to graph control flow
    # would take a sixth of the time and change nothing.
    without_autograph = modules.tf.autograph.experimental.do_not_convert
    with _without_garbage_collection():
        return without_autograph(build)()


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Building a Keras model creates millions of objects; scanning them takes 25% of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
