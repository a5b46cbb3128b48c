"""Train only the classifier."""

from __future__ import annotations

from movinet_convert.errors import UsageError
from movinet_convert.model import MoViNet

BACKBONE = frozenset({"stem", "blocks", "head"})


def freeze_backbone(model: MoViNet) -> MoViNet:
    """Freeze all but the classifier (its hidden and its last layer); returns the model.

    The backbone gets no gradients and stays in eval mode through ``model.train()``: its moving
    statistics do not change and stochastic depth is off, as with Keras' ``trainable = False``.

    Raises UsageError for a fused model.
    """
    return _set_frozen(model, BACKBONE)


def unfreeze_backbone(model: MoViNet) -> MoViNet:
    """Make all layers trainable again; returns the model."""
    return _set_frozen(model, frozenset())


def _set_frozen(model: MoViNet, parts: frozenset[str]) -> MoViNet:
    if model.fused:
        raise UsageError("A fused network cannot be trained; load it without fuse=True.")
    model.frozen = parts
    for name, child in model.named_children():
        child.requires_grad_(name not in parts)
    return model.train(model.training)
