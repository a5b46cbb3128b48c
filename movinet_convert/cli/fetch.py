"""``movinet-convert fetch``, and the download as other commands show it."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.cli.options import json_option, reported
from movinet_convert.cli.terminal import echo, echo_json
from movinet_convert.errors import DownloadError, UsageError
from movinet_convert.model.settings import get_variant

if TYPE_CHECKING:
    from movinet_convert.conversion.sources import Source
    from movinet_convert.download.fetch import FetchedRelease
    from movinet_convert.variants import Variant


def fetched(variant: Variant, options: dict[str, Any]) -> Source:
    """The release of a variant as the source of a conversion."""
    from movinet_convert.conversion import sources

    return sources.release(_download(variant, options))


def _download(variant: Variant, options: dict[str, Any]) -> FetchedRelease:
    from movinet_convert.cli.render import download_progress
    from movinet_convert.download.fetch import fetch_release

    with download_progress(variant.archive_name) as progress:
        release = fetch_release(
            variant,
            source_root=options["source_root"],
            offline=options["offline"],
            progress=progress,
            notice=lambda sentence: echo(sentence, err=True),
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

    A release that cannot be had does not stop the others; the exit code is 1 then.

    \b
    Example: movinet-convert fetch a0-base a0-stream
    """
    from movinet_convert.variants import list_variants

    with reported(as_json):
        if every == bool(names):
            raise UsageError("Name the releases to fetch, or say --all.")
        wanted = [get_variant(name) for name in (list_variants() if every else names)]
        rows, failed = _fetch_each(
            wanted, {"source_root": source_root, "offline": offline}, as_json=as_json
        )
        if failed and len(wanted) == 1:
            raise failed[wanted[0].name]
        problem = (
            f"{len(failed)} of {len(wanted)} releases could not be fetched: {', '.join(failed)}."
        )
        if failed and not as_json:
            raise DownloadError(problem)
    if as_json:
        said = {"error": problem, "exit_code": 1, "failed": {k: str(e) for k, e in failed.items()}}
        echo_json({"fetched": rows} | (said if failed else {}))
        sys.exit(1 if failed else 0)


def _fetch_each(
    wanted: list[Variant], options: dict[str, Any], *, as_json: bool
) -> tuple[list[dict[str, Any]], dict[str, DownloadError]]:
    """Fetch all that can be had: what was fetched, and by name why others were not."""
    rows: list[dict[str, Any]] = []
    failed: dict[str, DownloadError] = {}
    for variant in wanted:
        try:
            release = _download(variant, options)
        except DownloadError as error:
            failed[variant.name] = error
            if len(wanted) > 1:
                echo(f"{variant.name}: {error}", err=True)
            continue
        rows.append({**dataclasses.asdict(release), "path": str(release.path)})
        if not as_json:
            echo(f"{variant.name}  {release.sha256}  {release.path}")
    return rows, failed
