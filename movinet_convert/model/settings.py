"""Variants and settings that a user names: looked up, checked, and described with their origins."""

from __future__ import annotations

import dataclasses

from movinet_convert.errors import UsageError
from movinet_convert.variants import VARIANTS, Gating, Origins, Settings, Variant


def get_variant(name: str) -> Variant:
    """Return the variant called ``name``, such as ``a0-stream``; UsageError if there is none."""
    try:
        return VARIANTS[name]
    except KeyError:
        known = ", ".join(VARIANTS)
        raise UsageError(f"There is no MoViNet variant {name!r}; choose one of {known}.") from None


def released_settings(variant: Variant, gating: Gating | None = None) -> Settings:
    """``variant.settings(gating)``; UsageError for a gating that the variant cannot have."""
    if not variant.causal and gating not in (None, "sigmoid"):
        raise UsageError(
            f"{variant.name} is a base model and gates with a sigmoid; "
            f"gating {gating!r} is for stream variants: leave it out."
        )
    if variant.causal and gating not in (None, "keras", "model-garden"):
        raise UsageError(
            f"{variant.name} is a stream model; its gating is 'keras' or 'model-garden', "
            f"not {gating!r}."
        )
    return variant.settings(gating)


def check_settings(variant: Variant, settings: Settings) -> None:
    """Raise UsageError unless a network of this variant can have these settings.

    The hidden layer's activation is free. A stream variant with 3D convolutions is a legacy
    one, whose squeeze-excitation and encoding vary.
    """
    if variant.causal and settings.legacy:
        expected = dataclasses.replace(settings, causal=True, activation="swish", gating="sigmoid")
    else:
        stream_gating = None if settings.gating == "sigmoid" else settings.gating
        gating = stream_gating if variant.causal else None
        expected = dataclasses.replace(
            released_settings(variant, gating), head_activation=settings.head_activation
        )
    for field in dataclasses.fields(Settings):
        found, wanted = getattr(settings, field.name), getattr(expected, field.name)
        if found != wanted:
            raise UsageError(
                f"{variant.name} cannot have the setting {field.name}={found!r}; "
                f"{wanted!r} was expected."
            )


def with_origins(settings: Settings, origins: Origins | None) -> dict[str, str]:
    """What no checkpoint tells, each with its origin: ``{"gating": "keras (user)", ...}``."""
    values = {
        "gating": settings.gating,
        "head_activation": settings.head_activation,
        "legacy": "yes" if settings.legacy else "no",
    }
    return {
        field.replace("_", " "): (
            f"{value} ({getattr(origins, field) if origins else 'origin not recorded'})"
        )
        for field, value in values.items()
    }
