"""``movinet-convert fetch``, and the download that a conversion shares with it."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.cli import options
from movinet_convert.cli.command import Command
from movinet_convert.cli.terminal import echo, echo_json, progress
from movinet_convert.errors import DownloadError, UsageError
from movinet_convert.variants import Variant, list_variants

if TYPE_CHECKING:
    from movinet_convert.download.fetch import FetchedRelease


def download(variant: Variant, source_root: str | None, offline: bool) -> FetchedRelease:
    """Fetch a release, with a progress bar and notices."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    from movinet_convert.download.fetch import fetch_release

    with progress(variant.archive_name, DownloadColumn(), TransferSpeedColumn()) as update:
        release = fetch_release(
            variant,
            source_root=source_root,
            offline=offline,
            progress=lambda received, total: update(completed=received, total=total),
            notice=lambda sentence: echo(sentence, err=True),
        )
    if release.first_use:
        echo(
            f"Note: {variant.archive_name} has no published digest; from now on {release.sha256} "
            "is recorded and trusted.",
            err=True,
        )
    return release


@click.command("fetch", cls=Command)
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "every", is_flag=True, help="All twelve releases.")
@options.source_root
@click.option("--offline", is_flag=True, help="Check the cache only; download nothing.")
@options.as_json
def fetch_command(
    names: tuple[str, ...], every: bool, source_root: str | None, offline: bool, as_json: bool
) -> None:
    """Download released checkpoints into the cache, and check them.

    If a release cannot be fetched, the others still are; the exit code is then 1.

    \b
    Example: movinet-convert fetch a0-base a0-stream
    """
    from movinet_convert.model.settings import get_variant

    if every == bool(names):
        raise UsageError("Name the releases to fetch, or use --all.")
    wanted = [get_variant(name) for name in (list_variants() if every else names)]
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for variant in wanted:
        try:
            release = download(variant, source_root, offline)
        except DownloadError as error:
            if len(wanted) == 1:
                raise
            failed[variant.name] = str(error)
            echo(f"{variant.name}: {error}", err=True)
        else:
            rows.append({**dataclasses.asdict(release), "path": str(release.path)})
            if not as_json:
                echo(f"{variant.name}  {release.sha256}  {release.path}")
    problem = f"{len(failed)} of {len(wanted)} releases could not be fetched: {', '.join(failed)}."
    if as_json:
        failure = {"error": problem, "exit_code": 1, "failed": failed} if failed else {}
        echo_json({"fetched": rows, **failure})
        sys.exit(1 if failed else 0)
    if failed:
        raise DownloadError(problem)
