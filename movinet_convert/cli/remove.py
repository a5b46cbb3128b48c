"""``movinet-convert remove``."""

from __future__ import annotations

import click

from movinet_convert.cli import options
from movinet_convert.cli.command import Command
from movinet_convert.cli.terminal import echo, echo_json


@click.command("remove", cls=Command)
@options.stored_name
@click.option("--all", "every", is_flag=True, help="Every version of NAME.")
@options.weights_dir
@options.as_json
def remove_command(name: str, every: bool, weights_dir: str | None, as_json: bool) -> None:
    """Remove converted weights from the store.

    NAME is a variant or a name that was given with --name; NAME@N and --version N are one version
    of it. Without a version, NAME must have only one.

    \b
    Examples:
      movinet-convert remove a0-stream@1
      movinet-convert remove cattle --all
    """
    from movinet_convert.errors import UsageError
    from movinet_convert.weights.naming import split_version, store_folder
    from movinet_convert.weights.store import Store

    named = split_version(name)
    if named is None:
        raise UsageError(f"{name!r} is not a name in a store; delete other files yourself.")
    if every and named[1] is not None:
        raise UsageError("--all removes every version; leave out --all, or the version.")
    store = Store(store_folder(weights_dir))
    removed = store.remove(*named, every=every)
    entry = store.manifest().entry(named[0])
    current = entry.current_version if entry else None
    if as_json:
        version = current.version if current else None
        echo_json(
            {"removed": [str(store.folder / each.file) for each in removed], "current": version}
        )
        return
    for each in removed:
        echo(f"Removed {store.folder / each.file} ({each.bytes / 1e6:.1f} MB)")
    if current is not None:
        echo(f"{named[0]} is version {current.version} now.")
