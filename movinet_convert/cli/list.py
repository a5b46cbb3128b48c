"""``movinet-convert list``."""

from __future__ import annotations

import json

import click

from movinet_convert.cli.options import json_option, reported, weights_dir_option
from movinet_convert.cli.terminal import echo_json


@click.command("list")
@weights_dir_option
@json_option
def list_command(weights_dir: str | None, as_json: bool) -> None:
    """List the variants, and which of them the store holds.

    \b
    Example: movinet-convert list
    """
    from movinet_convert.cli.render import print_store
    from movinet_convert.weights.store import Store, store_folder

    with reported(as_json):
        store = Store(store_folder(weights_dir))
        manifest = store.manifest()
    if as_json:
        echo_json(json.loads(manifest.model_dump_json()))
    else:
        print_store(store, manifest)
