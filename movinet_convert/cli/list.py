"""``movinet-convert list``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from movinet_convert.cli import options
from movinet_convert.cli.command import Command
from movinet_convert.cli.terminal import console, echo, echo_json
from movinet_convert.variants import VARIANTS, Variant

if TYPE_CHECKING:
    from movinet_convert.weights.entries import ConvertedVersion, VariantEntry
    from movinet_convert.weights.manifest import Manifest


@click.command("list", cls=Command)
@options.weights_dir
@options.as_json
def list_command(weights_dir: str | None, as_json: bool) -> None:
    """List the variants, and those in the store.

    \b
    Example: movinet-convert list
    """
    from movinet_convert.weights.naming import store_folder
    from movinet_convert.weights.store import Store

    store = Store(store_folder(weights_dir))
    manifest = store.manifest()
    if as_json:
        echo_json(manifest.model_dump(mode="json"))
    else:
        _print(str(store.folder), manifest)


def _print(folder: str, manifest: Manifest) -> None:
    """Print the variants, and what the store has; accuracies are those of the releases."""
    from rich.table import Table

    table = Table()
    for heading in ("variant", "clip", "fps", "top-1", "top-5", "converted"):
        table.add_column(heading, no_wrap=heading != "converted")
    for name, entry in manifest.variants.items():
        clip = f"{entry.input.frames} x {entry.input.size}²"
        versions = ", ".join(f"v{version.version}" for version in entry.versions)
        figures = _published(VARIANTS[name], entry)
        table.add_row(name, clip, f"{entry.input.fps:g}", *figures, versions or "-")
    console().print(table)
    echo(f"In {folder}:" if manifest.converted else f"Nothing is converted in {folder}.")
    for name in manifest.converted:
        _print_versions(name, manifest)


def _print_versions(name: str, manifest: Manifest) -> None:
    """Print each version of a name; of several, the one that the name refers to is marked."""
    variant, entry = manifest.converted[name], manifest.entry(name)
    for version in manifest.versions(name):
        several = len(manifest.versions(name)) > 1
        current = several and entry is not None and version == entry.current_version
        kind: str = version.source.kind or "kind not recorded"
        if kind == "synthetic":
            kind = "random weights"
        echo(
            f"  {name}@{version.version}{' (current)' if current else ''}: "
            f"{'' if name == variant else f'{variant}, '}{version.num_classes} classes, "
            f"{version.dtype}, from {version.source.name} ({kind})",
            f"    {settings_line(version)}",
        )


def settings_line(version: ConvertedVersion) -> str:
    """The settings that no checkpoint records, with their origins: ``gating keras (user), ...``."""
    from movinet_convert.model.settings import with_origins

    described = with_origins(version.settings, version.origins)
    return ", ".join(f"{name} {value}" for name, value in described.items())


def _published(variant: Variant, entry: VariantEntry) -> tuple[str, str]:
    """Top-1 and top-5 of the release, unless the current version is another network."""
    current, accuracy = entry.current_version, entry.accuracy
    if current is not None and current.published_accuracy(variant) is None:
        return "", ""
    return f"{accuracy.top1:.2f}", "" if accuracy.top5 is None else f"{accuracy.top5:.2f}"
