"""Is a converted network right? The official model, the clips, the comparison, the report.

The only room that imports TensorFlow, and only once a comparison begins.
"""

from __future__ import annotations

from typing import Any

from movinet_convert.parity.compare import verify_model
from movinet_convert.parity.options import ParityOptions
from movinet_convert.parity.result import CaseResult, Distances, ParityReport, report_json

__all__ = [
    "CaseResult",
    "Distances",
    "ParityOptions",
    "ParityReport",
    "report_json",
    "verify_model",
]


def __getattr__(name: str) -> Any:
    # The command reads its options from this room; help text should not wait for torch.
    if name == "verify_model":
        from movinet_convert.parity.compare import verify_model

        return verify_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
