"""Fine-tuning: videos in folders, the training loops, checkpoints that survive a kill."""

from movinet_convert.training.freeze import freeze_backbone, unfreeze_backbone

__all__ = ["freeze_backbone", "unfreeze_backbone"]
