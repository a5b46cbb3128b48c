"""Detecting the gating of a stream model from the moving statistics of its batch normalisations.

``hard_sigmoid`` names two functions, and no checkpoint records which one a network was trained
with. But its moving statistics depend on it: clips like those of training are run through the
network with either gating, and the inputs of the projections are compared with what is stored.
"""

from movinet_convert.conversion.gating.evidence import GatingEvidence, gating_evidence

__all__ = ["GatingEvidence", "gating_evidence"]
