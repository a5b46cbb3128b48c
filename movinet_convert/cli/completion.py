"""What a shell completes: names of weights, files and folders."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from movinet_convert.variants import list_variants
from movinet_convert.weights.naming import store_folder, stored_names


def variants(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in list_variants() if name.startswith(incomplete)]


def stored(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names in the store, and their versions; for none, the variants."""
    folder = store_folder(context.params.get("weights_dir"))
    names = (stored_names(folder) if Path(folder).is_dir() else None) or list_variants()
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def stored_or_file(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    # First: bash forgets the items before it, and completes files only if no name fits.
    return [CompletionItem(incomplete, type="file"), *stored(context, parameter, incomplete)]


def files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def folders(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]
