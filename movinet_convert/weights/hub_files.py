"""Download weights from a repository on the Hugging Face Hub; needs the extra [hub]."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.files.extras import missing_extra
from movinet_convert.weights.manifest import MANIFEST_NAME

SCHEME = "hf://"
FILE_NAME = "model.safetensors"
MAX_REASON = 300  # characters of a message of the Hub's in an error


def is_hub_address(name: str | os.PathLike[str]) -> bool:
    """Whether a name is ``hf://…``."""
    return isinstance(name, str) and name.startswith(SCHEME)


@dataclass(frozen=True)
class HubAddress:
    """A repository on the Hub, at a branch, tag or commit; None is the newest commit."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read ``hf://ORG/NAME`` or ``hf://ORG/NAME@REVISION``; UsageError for anything else."""
        repository, at, revision = text.removeprefix(SCHEME).partition("@")
        if repository.count("/") != 1 or (at and not revision):
            raise _not_an_address(text)
        return cls(repository, revision or None)

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}{f'@{self.revision}' if self.revision else ''}"


def download_weights(address: HubAddress, **options: Any) -> Path:
    """The path of the weights file in the Hub's cache, downloaded if needed.

    The repository's manifest, if it has one, is beside it, of the same commit. ``options`` go to
    ``huggingface_hub.snapshot_download``; environment variables such as ``$HF_TOKEN``,
    ``$HF_HUB_CACHE`` and ``$HF_HUB_OFFLINE`` apply. Raises WeightsError, or UsageError for a name
    that no repository can have.
    """
    require_hub()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = snapshot_download(
            address.repository,
            revision=address.revision,
            allow_patterns=[FILE_NAME, MANIFEST_NAME],
            tqdm_class=_terminal_bar(),
            **options,
        )
    except HFValidationError:
        raise _not_an_address(str(address)) from None
    # Its client raises errors of several libraries, without a common base.
    except Exception as error:
        raise WeightsError(
            f"{address} cannot be downloaded from the Hub ({hub_reason(error)}); check the name, "
            "the revision and the connection, or pass a local folder or file."
        ) from error
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise WeightsError(
            f"{address} has no {FILE_NAME}; name a repository that movinet-convert published."
        )
    return path


def _terminal_bar() -> type[Any]:
    """The Hub's progress bar, on a terminal only."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class TerminalBar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.setdefault("disable", None)
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]

    return TerminalBar


def _not_an_address(text: str) -> UsageError:
    return UsageError(
        f"{text[:MAX_REASON]} is not the address of a repository; expected hf://ORG/NAME, or "
        "hf://ORG/NAME@REVISION for a branch, tag or commit."
    )


def hub_reason(error: Exception) -> str:
    """Why the Hub could not be used, in a clause."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "it is gated: accept its conditions on its page, and set $HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private and $HF_TOKEN gives no access to it"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:MAX_REASON].rstrip(".:")


def require_hub() -> None:
    """Raise MissingExtraError unless huggingface_hub is installed."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise missing_extra("Loading from and pushing to the Hugging Face Hub", "hub") from None
