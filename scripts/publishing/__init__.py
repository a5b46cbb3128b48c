"""The parts of ``scripts/publish_weights.py``: what may be published, and where to."""
