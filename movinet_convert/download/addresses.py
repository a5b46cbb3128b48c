"""The addresses of a release: Google's two official sources, or a mirror of the user's."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from movinet_convert import variants
from movinet_convert.download.account import NoAccount, kaggle_account
from movinet_convert.download.failures import shown
from movinet_convert.errors import UsageError
from movinet_convert.variants import SourceName, Variant

AUTO = "auto"
SOURCE_VARIABLE = "MOVINET_SOURCE"
SOURCE_ROOT_VARIABLE = "MOVINET_SOURCE_ROOT"  # the earlier name, of mirrors
TITLES: dict[SourceName, str] = {
    "model-garden": "Model Garden",
    "kaggle": "Kaggle",
    "mirror": "the mirror",
}


@dataclass(frozen=True)
class Address:
    """Where a release is: ``location`` is a URL, perhaps with a password, or a file.

    ``published_at`` is its official URL. ``file_name`` is its name in the cache, which tells the
    archives of the two sources apart.
    """

    source: SourceName
    location: str | Path = field(repr=False)
    published_at: str
    file_name: str
    version: int | None = None
    legacy: bool = False

    @property
    def title(self) -> str:
        version = f", version {self.version}" if self.version else ""
        return f"{TITLES[self.source]}{version}"

    @property
    def auth(self) -> NoAccount | None:
        """None for a mirror, whose password may be in its URL or in ``.netrc``."""
        if self.source == "mirror":
            return None
        return kaggle_account() if self.source == "kaggle" else NoAccount()

    @property
    def shown(self) -> str:
        """The location without secrets."""
        return shown(self.location) if isinstance(self.location, str) else str(self.location)


def addresses(
    variant: Variant, source: str | os.PathLike[str], *, legacy: bool = False
) -> tuple[Address, ...]:
    """Where to look for a release, in this order; UsageError if it is not there by any means."""
    if not variant.released:
        raise UsageError(
            f"{variant.name} was never released; pass your own checkpoint with --checkpoint, "
            "or use --synthetic."
        )
    if legacy and not variant.has_legacy:
        raise UsageError(
            f"{variant.name} has no legacy release, only stream models have one; omit "
            "--legacy, or add --causal."
        )
    if legacy and source == "kaggle":
        raise UsageError(
            f"Kaggle has no legacy release of {variant.name}; use --source model-garden or a "
            "mirror."
        )
    name = variant.legacy_archive_name if legacy else variant.archive_name
    url = f"{variants.MODEL_GARDEN_ROOT}/{name}"
    model_garden = Address("model-garden", url, url, name, legacy=legacy)
    if source == "model-garden" or (source == AUTO and legacy):
        return (model_garden,)
    if source not in (AUTO, "kaggle"):
        return (Address("mirror", _in_mirror(source, name), url, name, legacy=legacy),)
    url, version = variant.kaggle_url or "", variant.kaggle_version
    name = f"{variant.release_folder}_kaggle_v{version}.tar"
    kaggle = Address("kaggle", url, url, name, version)
    return (model_garden, kaggle) if source == AUTO else (kaggle,)


def chosen_source(
    source: str | os.PathLike[str] | None, source_root: str | os.PathLike[str] | None
) -> str | os.PathLike[str]:
    """The source by either name: arguments first, then the environment, then ``auto``."""
    environment = [os.environ.get(name) for name in (SOURCE_VARIABLE, SOURCE_ROOT_VARIABLE)]
    for where, given in (
        ("--source and --source-root", [source, source_root]),
        (f"${SOURCE_VARIABLE} and ${SOURCE_ROOT_VARIABLE}", environment),
    ):
        values = [value for value in given if value]
        if len({os.fspath(value) for value in values}) > 1:
            raise UsageError(
                f"{where} name the same thing and have different values; give only one."
            )
        if values:
            return values[0]
    return AUTO


def source_of(url: str) -> SourceName:
    """The source of a URL without secrets."""
    if url.startswith(f"{variants.KAGGLE_ROOT}/"):
        return "kaggle"
    return "model-garden" if url.startswith(f"{variants.MODEL_GARDEN_ROOT}/") else "mirror"


def _in_mirror(root: str | os.PathLike[str], name: str) -> str | Path:
    """The URL or file path of an archive in a mirror."""
    if "://" not in str(root):
        return Path(root) / name
    with suppress(ValueError):  # urlsplit refuses a malformed URL
        parts = urlsplit(str(root))
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            return Path(unquote(parts.path)) / name
        if parts.scheme in ("http", "https") and parts.netloc:
            return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()
    raise UsageError(
        f"The source (--source or ${SOURCE_VARIABLE}) must be auto, model-garden, kaggle, or the "
        "http(s) URL or the folder of a mirror that contains the released archives."
    )
