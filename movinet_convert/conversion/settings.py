"""The settings of a checkpoint's network, with the origin of those that no variable determines.

``checkpoint.structure`` infers architecture, convolutions, squeeze-excitation, positional encoding
and class count. The release or the user determines the other three, unless the file has a graph
that shows them: the gating of a stream model, the activation of the classifier's hidden layer, and
whether 3D weights belong to a base model or to an older, causal one ("legacy"). A variant name
given by the user is only checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from movinet_convert.checkpoint.structure import Structure
from movinet_convert.conversion.sources import Source
from movinet_convert.errors import CheckpointError, UsageError
from movinet_convert.model.settings import (
    gating_advice,
    get_variant,
    legacy_settings,
    released_settings,
)
from movinet_convert.variants import (
    KINETICS_600_CLASSES,
    Activation,
    Gating,
    Origin,
    Origins,
    Settings,
    Variant,
)

Choice = TypeVar("Choice", bound=str)

GATING_ADVICE = (
    "no variable of a checkpoint determines which hard sigmoid its stream model was trained with. "
    f"Pass {gating_advice('--gating keras', '--gating model-garden')}; or detect it from the "
    "moving statistics, with videos like those of training, by --gating auto --gating-clips DIR"
)
HEAD_ACTIVATION_ADVICE = (
    "no variable of a checkpoint determines the activation of its classifier's hidden layer. Pass "
    "--head-activation swish for Google's releases and TF-Hub models; --head-activation hard_swish "
    "for training with the official configuration of A1-, A4- or T0-Stream, or with "
    "head.activation set to hard_swish"
)


def determine_settings(
    structure: Structure,
    source: Source,
    *,
    name: str | None = None,
    gating: Gating | None = None,
    legacy: bool = False,
    head_activation: Activation | None = None,
) -> tuple[Variant, Settings, Origins]:
    """The variant, its settings and their origins, from the variables and the user's choices.

    Raises CheckpointError if these contradict each other, UsageError if a choice is missing.
    """
    if legacy and structure.conv_type != "3d":
        raise CheckpointError(
            f"{source.path} has (2+1)D convolutions, but legacy stream models have 3D ones; "
            "convert it without --legacy."
        )
    legacy_stream = structure.conv_type == "3d" and (legacy or structure.causal is True)
    causal = legacy_stream or structure.causal is True
    variant = Variant(structure.arch, "stream" if causal else "base")
    if name is not None and get_variant(name) != variant:
        choices = {
            "--gating keras|model-garden": gating or structure.gating,
            "--head-activation swish|hard_swish": head_activation or structure.head_activation,
        }
        raise CheckpointError(_contradiction(structure, source, name, variant, choices))
    _check_release(structure, source, variant)
    gating = _as_in_graph("gating", structure.gating, gating, source)
    head_activation = _as_in_graph(
        "head activation", structure.head_activation, head_activation, source
    )
    if source.provenance == "checkpoint" and causal:
        _require_choices(source, variant, "sigmoid" if legacy_stream else gating, head_activation)
    if legacy_stream:
        settings = _legacy_settings(structure, gating)
    else:
        settings = released_settings(variant, gating)
        _check_settings(structure, source, settings, variant)
    if head_activation is not None:
        settings = dataclasses.replace(settings, head_activation=head_activation)
    kind = source.provenance
    default: Origin = "default" if kind == "checkpoint" else kind
    chosen: Origin = "user" if structure.gating is None else "checkpoint"
    confirmed = (legacy or name is not None) and source.kind == "given"
    origins = Origins(
        gating=chosen if gating else default,
        head_activation=chosen if head_activation else default,
        legacy="checkpoint" if structure.causal is not None else "user" if confirmed else default,
    )
    return variant, settings, origins


def _as_in_graph(
    what: str, found: Choice | None, given: Choice | None, source: Source
) -> Choice | None:
    """The setting that the operators of a graph show, or the user's for a file without a graph."""
    if found is not None and given not in (None, found):
        raise UsageError(
            f"The operators of {source.path} compute {what} {found!r}, not {given!r}; leave out "
            f"--{what.replace(' ', '-')}, which is read from the file."
        )
    return given if found is None else found


def _contradiction(
    structure: Structure,
    source: Source,
    name: str,
    found: Variant,
    choices: Mapping[str, str | None],
) -> str:
    """The sentence with the options that convert it, those that are yet to be chosen too."""
    advice = f"convert it with --arch {found.arch}{' --causal' if found.causal else ''}"
    if found.causal and source.provenance == "checkpoint":
        open_choices = [option for option, chosen in choices.items() if chosen is None]
        advice += "".join(f" {option}" for option in open_choices)
        advice += " (docs/gating.md explains the choice)" if open_choices else ""
    if name == f"{structure.arch}-stream" and structure.may_be_legacy:
        advice += ", or with --causal --legacy if it is one of the older 3D stream models"
    return f"{source.path} looks like {found.name}, not {name}; {advice}."


def _check_release(structure: Structure, source: Source, variant: Variant) -> None:
    """Refuse weights from the URL of a release that have a different class count."""
    if source.provenance == "unpinned" and structure.classes != KINETICS_600_CLASSES:
        raise CheckpointError(
            f"{source.path} came from the URL of the release of {variant.name} but has "
            f"{structure.classes or 'no'} classes instead of {KINETICS_600_CLASSES}; "
            "it is another model: convert it with --checkpoint and its settings."
        )


def _require_choices(
    source: Source, variant: Variant, gating: Gating | None, head_activation: Activation | None
) -> None:
    """UsageError unless the user gave the settings that a stream checkpoint leaves open."""
    missing = {}
    if gating is None:
        missing["a gating"] = GATING_ADVICE
    if head_activation is None:
        missing["a head activation"] = HEAD_ACTIVATION_ADVICE
    if missing:
        raise UsageError(
            f"{source.path} is of {variant.name} and needs {' and '.join(missing)}: "
            f"{'; and '.join(missing.values())}."
        )


def _legacy_settings(structure: Structure, gating: Gating | None) -> Settings:
    if gating not in (None, "sigmoid"):
        raise UsageError(
            f"Legacy stream models have sigmoid gating, not {gating!r}; omit --gating."
        )
    return legacy_settings(structure.se_type, structure.positional_encoding)


def _check_settings(
    structure: Structure, source: Source, settings: Settings, variant: Variant
) -> None:
    """Refuse a network with settings that differ from the release."""
    for field in ("conv_type", "se_type", "positional_encoding"):
        found, expected = getattr(structure, field), getattr(settings, field)
        if found != expected:
            raise CheckpointError(
                f"{source.path} has {field}={found!r}, but {variant.name} has {expected!r}; it is "
                "incomplete or was trained with other settings, and cannot be converted."
            )
