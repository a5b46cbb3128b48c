"""``tf-checkpoint``: back to TensorFlow, written without it."""

from __future__ import annotations

from pathlib import Path

from movinet_convert.checkpoint.model_garden import write_checkpoint
from movinet_convert.export.outputs import explained, folder_name
from movinet_convert.model import MoViNet
from movinet_convert.weights.tf_variables import tf_variables


def export_checkpoint(model: MoViNet, folder: Path) -> Path:
    """Write ``checkpoint``, ``ckpt-1.index`` and its data into ``folder``; returns the prefix.

    ``tf.train.Checkpoint(model=official_model).restore(prefix)`` finds every variable, and weights
    converted from TensorFlow are restored bit for bit. Raises UsageError for a folder with other
    files or a fused network, WeightsError for weights that are not finite, ExportError if they
    cannot be written.
    """
    variables = tf_variables(model)
    with explained(folder, "tf-checkpoint", OSError):
        return write_checkpoint(folder_name(folder, "tf-checkpoint"), model.variant.arch, variables)
