"""``movinet-convert`` without a command: from checkpoints to verified files in the store."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from movinet_convert.cli import options
from movinet_convert.cli.convert_many import convert_many
from movinet_convert.cli.convert_one import conversion_json, convert_one, print_conversion
from movinet_convert.cli.fetch import download
from movinet_convert.cli.terminal import doing, echo_json
from movinet_convert.errors import UsageError
from movinet_convert.files.extras import missing_extra
from movinet_convert.variants import KINETICS_600_CLASSES, Variant, list_variants

if TYPE_CHECKING:
    from movinet_convert.conversion.sources import Source

AUTO = "auto"


def convert_and_print(
    *, archs: tuple[str, ...], causal: bool, every: bool, as_json: bool, **settings: Any
) -> None:
    # Only stream models have a legacy release.
    variants = _variants(archs, causal or (every and settings["legacy"]), every)
    if settings["labels"] is not None:
        from movinet_convert.weights.labels import read_labels

        # A file that cannot be one is refused before any work.
        count = None if settings["checkpoint"] else KINETICS_600_CLASSES
        read_labels(settings["labels"], count)
    if settings["store_as"] is not None:
        from movinet_convert.weights.naming import check_own_name

        check_own_name(settings["store_as"])
        if len(variants) > 1:
            raise UsageError("--name names the weights of one variant; convert one at a time.")
    first = variants[0] if variants else None  # None: the checkpoint determines it
    for variant in variants[1:]:
        _check_gating(variant, settings["gating"], settings["gating_clips"])
    _check_gating(first, settings["gating"], settings["gating_clips"])
    if not settings["no_verify"]:
        options.parity_settings(settings)  # refuses values that would prove nothing
        _require_tensorflow(settings["synthetic"])
    if settings["checkpoint"] and settings["synthetic"]:
        raise UsageError("--checkpoint and --synthetic both name a source; choose one.")
    if len(variants) > 1:
        if settings["checkpoint"]:
            raise UsageError("--checkpoint is one model; select its variant with one --arch.")
        convert_many(variants, settings, as_json)
        return
    with ExitStack() as stack:
        source = _source(stack, first, settings)
        stage = stack.enter_context(doing(f"Converting {source.name}"))
        conversion = convert_one(first, source, settings, stage)
    if as_json:
        echo_json(conversion_json(conversion))
    else:
        print_conversion(conversion)


def _require_tensorflow(synthetic: bool) -> None:
    """Refuse, before any work, a comparison that would fail for lack of TensorFlow."""
    otherwise = "" if synthetic else "convert without the comparison: --no-verify"
    try:
        missing = find_spec("tensorflow") is None
    except ValueError:  # imports of it are blocked
        missing = True
    if missing:
        raise missing_extra("Comparing with the official model", "tf", otherwise)


def _variants(archs: tuple[str, ...], causal: bool, every: bool) -> list[Variant]:
    """The selected variants; none if a checkpoint determines its own."""
    from movinet_convert.model.settings import get_variant

    if every and archs:
        raise UsageError("--all and --arch both select variants; choose one.")
    if every:
        known = map(get_variant, list_variants())
        return [variant for variant in known if variant.causal or not causal]
    if causal and not archs:
        raise UsageError(
            "--causal selects a variant together with --arch or --all; pass both or neither."
        )
    return [
        get_variant(f"{arch}-{'stream' if causal else 'base'}") for arch in dict.fromkeys(archs)
    ]


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

    if settings["checkpoint"] or variant is None:
        return sources.given(settings["checkpoint"])
    if settings["synthetic"]:
        with doing("Making a synthetic checkpoint with the official model"):
            return stack.enter_context(sources.synthetic(variant, settings["seed"]))
    return sources.release(download(variant, settings))
