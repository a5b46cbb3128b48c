"""Variants and settings by name, and the record of them in state dicts.

Networks with equal tensors may compute different results: no tensor shows which hard sigmoid the
gate is. ``model.state_dict()`` therefore carries the settings in PyTorch's own metadata, which
``torch.save`` and ``torch.load`` preserve, and ``load_state_dict`` compares them.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, get_args

from movinet_convert.errors import MovinetWarning, UsageError, WeightsError
from movinet_convert.variants import (
    KINETICS_600_CLASSES,
    VARIANTS,
    Gating,
    Origin,
    Origins,
    Settings,
    SeType,
    Variant,
    meant_variants,
)

METADATA_KEY = "movinet_convert"
DEFAULT_ORIGINS = Origins(gating="default", head_activation="default", legacy="default")


def gating_advice(keras: str, model_garden: str) -> str:
    """Which of two arguments to pass; it depends on the training, and no checkpoint records it."""
    return (
        f"{keras} for Google's releases of 2021, TF-Hub models and training with "
        f"tf-models-official up to 2.7; {model_garden} for training with 2.8 or later"
    )


UNRECORDED_GATING = (
    "This state dict does not record its gating, and this {name} was created with the default "
    "gating, {gating!r}. No tensor shows which one the weights were trained with: pass "
    "create_model({name!r}, " + gating_advice("gating='keras')", "gating='model-garden'") + "."
)


def get_variant(name: str) -> Variant:
    """Return the variant called ``name``, such as ``a0-stream``; UsageError if there is none."""
    try:
        return VARIANTS[name]
    except KeyError:
        meant = " or ".join(meant_variants(name))
        hint = f" (did you mean {meant}?)" if meant else ""
        raise UsageError(
            f"There is no MoViNet variant {name!r}{hint}; choose one of {', '.join(VARIANTS)}."
        ) from None


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


def legacy_settings(se_type: SeType, positional_encoding: bool) -> Settings:
    """The settings of an older stream model with 3D convolutions."""
    return Settings(True, "3d", se_type, "swish", "sigmoid", positional_encoding)


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
    for name, wanted in dataclasses.asdict(expected).items():
        found = getattr(settings, name)
        if found != wanted:
            raise UsageError(
                f"{variant.name} cannot have the setting {name}={found!r}; {wanted!r} was expected."
            )


def check_num_classes(num_classes: object) -> None:
    """Raise UsageError unless a classifier can have so many classes; a bool is no number."""
    if type(num_classes) is not int or num_classes < 1:
        raise UsageError(f"num_classes must be an integer of at least 1; got {num_classes!r}.")


def with_origins(settings: Settings, origins: Origins | None) -> dict[str, str]:
    """The settings that no checkpoint stores, with origins: ``{"gating": "keras (user)", ...}``."""
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


def settings_record(settings: Settings, origins: Origins | None) -> dict[str, Any]:
    """What a state dict records of its network, in types that ``torch.load`` trusts."""
    return {
        "settings": dataclasses.asdict(settings),
        "origins": None if origins is None else dataclasses.asdict(origins),
    }


def check_record(
    record: object, variant: Variant, settings: Settings, origins: Origins | None, num_classes: int
) -> Origins | None:
    """Compare the record in a state dict with the network that is to load it.

    Returns the origins of the network's settings from now on: the recorded ones, or ``origins``.
    Raises WeightsError for other settings; warns where none are recorded and the weights may be
    for another gate.
    """
    recorded = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(recorded, dict):
        chosen = origins is None or origins.gating != "default"
        unambiguous = not settings.causal or settings.gating == "sigmoid"
        if not (chosen or unambiguous or num_classes == KINETICS_600_CLASSES):
            message = UNRECORDED_GATING.format(name=variant.name, gating=settings.gating)
            # The caller of load_state_dict, two frames of which are in between.
            warnings.warn(message, MovinetWarning, stacklevel=5)
        return origins
    own = dataclasses.asdict(settings)
    other = {name: recorded[name] for name in own if recorded.get(name, own[name]) != own[name]}
    if other:
        raise WeightsError(
            f"This state dict is of a network with {_listed(other)} where this {variant.name} has "
            f"{_listed({name: own[name] for name in other})}, and would give wrong results; "
            "create the network with the settings of the weights, as in "
            "create_model(name, gating=..., head_activation=...)."
        )
    return _recorded_origins(record.get("origins")) or origins


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {str(value)[:40]!r}" for name, value in settings.items())


def _recorded_origins(record: object) -> Origins | None:
    known = get_args(Origin)
    if not isinstance(record, dict) or record.keys() != Origins.__dataclass_fields__.keys():
        return None
    valid = all(isinstance(value, str) and value in known for value in record.values())
    return Origins(**record) if valid else None
