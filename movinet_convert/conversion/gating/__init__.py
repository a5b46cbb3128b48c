"""Detect the gating of a stream model from the moving statistics of batch normalization.

Two functions are called ``hard_sigmoid``, and no checkpoint records which one a network was trained
with. But its moving statistics depend on it: clips like those of training are run through the
network with each gating, and the statistics after the gate are compared with the stored ones.
"""

from movinet_convert.conversion.gating.evidence import GatingEvidence, gating_evidence

__all__ = ["GatingEvidence", "gating_evidence"]
