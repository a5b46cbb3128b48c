"""``movinet-convert fetch``, and the download as other commands show it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.commands.options import json_option, reported
from movinet_convert.errors import UsageError
from movinet_convert.terminal import echo, echo_json
from movinet_convert.variants import get_variant

if TYPE_CHECKING:
    from movinet_convert.fetch import FetchedRelease
    from movinet_convert.sources import Source
    from movinet_convert.variants import Variant


def fetched(variant: Variant, options: dict[str, Any]) -> Source:
    """The release of a variant as the source of a conversion."""
    from movinet_convert import sources

    return sources.release(_download(variant, options))


def _download(variant: Variant, options: dict[str, Any]) -> FetchedRelease:
    from movinet_convert.fetch import fetch_release
    from movinet_convert.render import download_progress

    with download_progress(variant.archive_name) as progress:
        release = fetch_release(
            variant,
            source_root=options["source_root"],
            offline=options["offline"],
            progress=progress,
        )
    if release.first_use:
        echo(
            f"Note: nobody has published the digest of {variant.archive_name}; {release.sha256} "
            "is trusted and recorded from now on.",
            err=True,
        )
    return release


@click.command("fetch")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "every", is_flag=True, help="All twelve releases.")
@click.option("--source-root", metavar="URL_OR_DIR", help="A mirror of the released archives.")
@click.option("--offline", is_flag=True, help="Check what is there; download nothing.")
@json_option
def fetch_command(
    names: tuple[str, ...], every: bool, source_root: str | None, offline: bool, as_json: bool
) -> None:
    """Download released checkpoints into the cache, and check them.

    \b
    Example: movinet-convert fetch a0-base a0-stream
    """
    from movinet_convert.variants import list_variants

    with reported(as_json):
        if every == bool(names):
            raise UsageError("Name the releases to fetch, or say --all.")
        wanted = [get_variant(name) for name in (list_variants() if every else names)]
        options = {"source_root": source_root, "offline": offline}
        rows = []
        for variant in wanted:
            release = _download(variant, options)
            rows.append({**dataclasses.asdict(release), "path": str(release.path)})
            if not as_json:
                echo(f"{variant.name}  {release.sha256}  {release.path}")
    if as_json:
        echo_json({"fetched": rows})
