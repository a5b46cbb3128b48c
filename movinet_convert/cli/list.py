"""``movinet-convert list``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from movinet_convert.cli import options
from movinet_convert.cli.command import Command
from movinet_convert.cli.terminal import console, echo_json
from movinet_convert.variants import VARIANTS, Variant

if TYPE_CHECKING:
    from movinet_convert.weights.manifest import ConvertedVersion, Manifest, VariantEntry


@click.command("list", cls=Command)
@options.weights_dir
@options.as_json
def list_command(weights_dir: str | None, as_json: bool) -> None:
    """List the variants, and those in the store.

    \b
    Example: movinet-convert list
    """
    from movinet_convert.weights.store import Store, store_folder

    store = Store(store_folder(weights_dir))
    manifest = store.manifest()
    if as_json:
        echo_json(manifest.model_dump(mode="json"))
    else:
        _print(str(store.folder), manifest)


def _print(title: str, manifest: Manifest) -> None:
    """Print the variants with their converted versions; accuracies are those of the releases."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("variant", "clip", "fps", "top-1", "top-5", "converted"):
        table.add_column(heading, no_wrap=heading != "converted")
    for name, entry in manifest.variants.items():
        clip = f"{entry.input.frames} x {entry.input.size}²"
        versions = "\n".join(_describe(version, entry) for version in entry.versions)
        figures = _published(VARIANTS[name], entry)
        table.add_row(name, clip, f"{entry.input.fps:g}", *figures, versions or "-")
    console().print(table)


def _describe(version: ConvertedVersion, entry: VariantEntry) -> str:
    several = len(entry.versions) > 1
    current = " (current)" if several and version == entry.current_version else ""
    return (
        f"v{version.version}{current}: {version.source.kind or 'source not recorded'}, "
        f"{version.num_classes} classes, {version.dtype}, {settings_line(version)}"
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
