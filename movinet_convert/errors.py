"""The exceptions of this package.

Every error of this package is a ``MovinetError`` whose message is one actionable sentence: what
failed, where, what was expected, what to do. The command exits with ``exit_code``.
"""

from __future__ import annotations

from typing import Any


class MovinetError(Exception):
    """Base of all expected errors; the operation failed and nothing was written."""

    exit_code = 1


class MovinetWarning(UserWarning):
    """A warning for users; the command prints it as one sentence."""


class UsageError(MovinetError, ValueError):
    """The call itself is invalid: an unknown name, contradictory options."""

    exit_code = 2


class CheckpointError(MovinetError):
    """A checkpoint cannot be read, or is not the expected MoViNet."""


class WeightsError(MovinetError):
    """A converted file or its manifest is missing, damaged or inconsistent."""


class ParityError(MovinetError):
    """The network and the official model compute different results.

    ``result`` is a ``parity.result.ParityResult``.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class DownloadError(MovinetError):
    """A release could not be downloaded, or is not the published file.

    ``reason`` is why, without the address and without advice. ``no_network``: the host's name could
    not be resolved, or no connection to it be made.
    """

    def __init__(
        self, message: str, *, reason: str | None = None, no_network: bool = False
    ) -> None:
        super().__init__(message)
        self.reason, self.no_network = reason or message.rstrip("."), no_network


class CacheError(DownloadError):
    """The cache of releases cannot be used, whatever a release is downloaded from."""


class ExportError(MovinetError):
    """An export cannot be written here, loses too much accuracy, cannot be opened, or is code."""


class StateError(MovinetError, ValueError):
    """A stream state does not fit the frames or the network it is used with."""


class VideoError(MovinetError):
    """A video cannot be read or written."""


class EvaluationError(MovinetError):
    """An accuracy cannot be measured; the results so far are kept."""


class MissingExtraError(MovinetError, ImportError):
    """A feature needs a package that is not installed; see ``files.extras.missing_extra``."""
