"""``movinet-convert`` without a command: from a checkpoint to a verified file in the store."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from movinet_convert.cli import options
from movinet_convert.cli.command import print_parity
from movinet_convert.cli.fetch import download
from movinet_convert.cli.list import settings_line
from movinet_convert.cli.terminal import doing, echo, echo_json
from movinet_convert.errors import UsageError
from movinet_convert.variants import Variant

if TYPE_CHECKING:
    from movinet_convert.conversion.pipeline import Conversion
    from movinet_convert.conversion.sources import Source

AUTO = "auto"


def convert_and_print(*, arch: str | None, causal: bool, as_json: bool, **settings: Any) -> None:
    from movinet_convert.conversion.pipeline import convert
    from movinet_convert.model.settings import get_variant

    if arch is None and causal:
        raise UsageError("--causal selects a variant together with --arch; pass both or neither.")
    variant = get_variant(f"{arch}-{'stream' if causal else 'base'}") if arch else None
    _check_gating(variant, settings["gating"], settings["gating_clips"])
    clips = None
    if settings["gating_clips"] is not None:
        from movinet_convert.video.clips import read_clips

        clips = partial(read_clips, Path(settings["gating_clips"]))
    parity = None if settings["no_verify"] else options.parity_settings(settings)
    passed_on = ("gating", "legacy", "head_activation", "num_classes", "out", "dtype")
    with ExitStack() as stack:
        source = _source(stack, variant, settings)
        stack.enter_context(doing(f"Converting {source.name}"))
        conversion = convert(
            variant.name if variant else None,
            source,
            gating_clips=clips,
            parity=parity,
            **{name: settings[name] for name in passed_on},
        )
    if as_json:
        echo_json(_as_json(conversion))
    else:
        _print(conversion)


def _check_gating(variant: Variant | None, gating: Any, clips: str | None) -> None:
    """Reject contradictory options before anything is downloaded."""
    from movinet_convert.model.settings import released_settings

    if (gating == AUTO) != (clips is not None):
        raise UsageError(
            "--gating auto and --gating-clips DIR require each other: the gating is detected with "
            "videos like the training data; pass both or neither."
        )
    if variant and gating:
        released_settings(variant, "keras" if gating == AUTO else gating)


def _source(stack: ExitStack, variant: Variant | None, settings: dict[str, Any]) -> Source:
    from movinet_convert.conversion import sources

    if settings["checkpoint"] and settings["synthetic"]:
        raise UsageError("--checkpoint and --synthetic both name a source; choose one.")
    if settings["checkpoint"] or variant is None:
        return sources.given(settings["checkpoint"])
    if settings["synthetic"]:
        with doing("Making a synthetic checkpoint with the official model"):
            return stack.enter_context(sources.synthetic(variant, settings["seed"]))
    return sources.release(download(variant, settings["source_root"], settings["offline"]))


def _as_json(conversion: Conversion) -> dict[str, Any]:
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


def _print(conversion: Conversion) -> None:
    converted, stored = conversion.converted, conversion.stored
    entry = stored.entry
    echo(
        f"{converted.variant.name} from {entry.source.name} ({entry.source.layout} layout, "
        f"{entry.source.kind}), {entry.num_classes} classes",
        f"  {settings_line(entry)}",
    )
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
