"""The pipeline from a checkpoint to a verified file in a store."""
