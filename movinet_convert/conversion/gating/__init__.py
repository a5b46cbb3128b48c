"""Telling a stream model's gate from the moving statistics of its batch normalisations.

``hard_sigmoid`` names two functions, and no checkpoint says which one a network was trained with.
Its moving statistics remember what flowed through it, though: clips like those it was trained on
are run through the network with either gate, and what the projections receive is compared with
what is stored.
"""

from movinet_convert.conversion.gating.evidence import GatingEvidence, gating_evidence

__all__ = ["GatingEvidence", "gating_evidence"]
