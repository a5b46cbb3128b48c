"""One conversion with the options of the command, and what is printed of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from movinet_convert.cli import options
from movinet_convert.cli.command import print_parity
from movinet_convert.cli.list import settings_line
from movinet_convert.cli.terminal import echo
from movinet_convert.cli.threads import following_load
from movinet_convert.variants import Variant

if TYPE_CHECKING:
    from movinet_convert.conversion.pipeline import Conversion
    from movinet_convert.conversion.sources import Source
    from movinet_convert.parity.comparison import Stage

CONVERT_OPTIONS = (
    *("gating", "legacy", "head_activation"),
    *("num_classes", "labels", "store_as", "dtype"),
)


def convert_one(
    variant: Variant | None,
    source: Source,
    settings: Mapping[str, Any],
    stage: Stage | None = None,
) -> Conversion:
    """Call ``convert`` with the options of the command."""
    from movinet_convert.conversion.pipeline import convert
    from movinet_convert.parity.comparison import silent

    clips = None
    if settings["gating_clips"] is not None:
        from movinet_convert.video.clips import read_clips

        clips = partial(read_clips, Path(settings["gating_clips"]))
    return convert(
        variant.name if variant else None,
        source,
        gating_clips=clips,
        stage=following_load(stage or silent),
        out=settings["weights_dir"],
        parity=None if settings["no_verify"] else options.parity_settings(settings),
        **{name: settings[name] for name in CONVERT_OPTIONS},
    )


def conversion_json(conversion: Conversion) -> dict[str, Any]:
    """The result of a conversion for ``--json``."""
    converted, stored = conversion.converted, conversion.stored
    evidence, as_stored = conversion.gating_evidence, conversion.parity_as_stored
    return {
        "variant": converted.variant.name,
        "path": str(stored.path),
        "created": stored.created,
        **stored.entry.model_dump(mode="json", exclude={"parity", "parity_as_stored"}),
        "drawn": list(converted.drawn),
        "ignored": dict(converted.checkpoint.ignored),
        "gating_evidence": evidence.to_json() if evidence else None,
        "parity": conversion.parity.to_json() if conversion.parity else None,
        "parity_as_stored": as_stored.to_json() if as_stored else None,
    }


def print_conversion(conversion: Conversion) -> None:
    """The source, the settings, the comparison and the file."""
    from movinet_convert.weights.labels import known_names, unnamed

    converted, stored = conversion.converted, conversion.stored
    entry = stored.entry
    echo(
        f"{converted.variant.name} from {entry.source.name} ({entry.source.layout} layout, "
        f"{entry.source.kind}), {entry.num_classes} classes",
        f"  {settings_line(entry)}",
    )
    if converted.source.known:
        echo(f"  these are {converted.source.known}")
    if conversion.gating_evidence is not None:
        echo(f"  gating detected from moving statistics: {conversion.gating_evidence.summary()}")
    for name, reason in converted.checkpoint.ignored.items():
        echo(f"  ignored: {name} ({reason})")
    if converted.drawn:
        echo("  Warning: the checkpoint has no classifier; an untrained one was added.")
    if conversion.parity_as_stored:
        echo(f"Against the official model with the values as stored, in {entry.dtype}:")
        print_parity(conversion.parity_as_stored)
        echo("Against the official model with the values of the checkpoint:")
    if conversion.parity:
        print_parity(conversion.parity)
    else:
        echo("Not compared with the official model (--no-verify).")
    done = "Wrote" if stored.created else "Unchanged:"
    echo(f"{done} {stored.path} ({entry.bytes / 1e6:.1f} MB, sha256 {entry.sha256})")
    if known_names(conversion.labels, entry.num_classes) is None:
        echo(f"Note: {unnamed(stored.path.name, entry.num_classes)}", err=True)
