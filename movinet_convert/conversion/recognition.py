"""Which network a checkpoint is for: what it says of itself, and what only the user can know.

Architecture, mode, kinds of convolution and squeeze-excitation, positional encoding and the class
count are read; a name that the user gives can only confirm them. Three things cannot be read: the
gating of a stream model, whether 3D weights belong to a base model or to an older, causal one, and
the activation of the classifier's hidden layer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from movinet_convert.checkpoint import Checkpoint
from movinet_convert.checkpoint.structure import Structure, read_structure
from movinet_convert.conversion.sources import Source
from movinet_convert.errors import CheckpointError, UsageError
from movinet_convert.model.settings import get_variant, released_settings
from movinet_convert.variants import (
    KINETICS_600_CLASSES,
    Activation,
    Gating,
    Origin,
    Origins,
    Settings,
    Variant,
)

GATING_ADVICE = (
    "no variable of a checkpoint tells which hard sigmoid its stream model was trained with. Pass "
    "--gating keras for Google's releases of 2021, TF-Hub models and training with "
    "tf-models-official up to 2.7; --gating model-garden for training with 2.8 or later; or have "
    "it read from the moving statistics with videos such as those of training, by --gating auto "
    "--gating-clips DIR"
)
HEAD_ACTIVATION_ADVICE = (
    "nothing in a checkpoint tells the activation of its classifier's hidden layer. Pass "
    "--head-activation swish for Google's releases and TF-Hub models; --head-activation hard_swish "
    "if it was trained with the official configuration of A1-, A4- or T0-Stream, or with a "
    "head.activation of hard_swish of your own"
)
RELEASE_HEAD_ACTIVATION: Activation = "swish"  # of all releases, base and stream


@dataclass(frozen=True)
class Recognised:
    """The network of a checkpoint; ``num_classes`` is None for a backbone without classifier."""

    variant: Variant
    settings: Settings
    origins: Origins
    num_classes: int | None


def recognise(
    checkpoint: Checkpoint,
    source: Source,
    *,
    name: str | None = None,
    gating: Gating | None = None,
    legacy: bool = False,
    head_activation: Activation | None = None,
) -> Recognised:
    """Read what ``checkpoint`` is and compare it with what the user says it is.

    Raises CheckpointError where they contradict each other, UsageError where a choice is missing.
    """
    structure = read_structure(checkpoint)
    asked = get_variant(name) if name is not None else None
    told_legacy = structure.conv_type == "3d" and structure.causal is True
    if legacy and structure.conv_type != "3d":
        raise CheckpointError(
            f"{checkpoint.source} has (2+1)D convolutions, and legacy stream models have 3D ones; "
            "convert it without --legacy."
        )
    is_legacy = legacy or told_legacy
    found = Variant(structure.arch, "stream" if structure.causal or is_legacy else "base")
    if asked is not None and asked != found:
        raise CheckpointError(_contradiction(checkpoint, structure, asked, found))
    _check_unpinned(source, structure, found)
    _demand_choices(source, found, gating, head_activation, legacy=is_legacy)
    if is_legacy:
        settings = _legacy_settings(structure, gating)
    else:
        settings = released_settings(found, gating)
        _check_settings(checkpoint, structure, settings, found)
    settings = dataclasses.replace(
        settings, head_activation=head_activation or RELEASE_HEAD_ACTIVATION
    )
    unsaid = _origin_of_unsaid(source)
    origins = Origins(
        gating="user" if gating else unsaid,
        head_activation="user" if head_activation else unsaid,
        legacy=_legacy_origin(structure, source, said=legacy or asked is not None),
    )
    return Recognised(found, settings, origins, structure.classes)


def _demand_choices(
    source: Source,
    variant: Variant,
    gating: Gating | None,
    head_activation: Activation | None,
    *,
    legacy: bool,
) -> None:
    """UsageError unless everything is said that a stream model of unknown origin leaves open."""
    if source.provenance != "checkpoint" or not variant.causal:
        return
    missing = {}
    if gating is None and not legacy:
        missing["a gating"] = GATING_ADVICE
    if head_activation is None:
        missing["a head activation"] = HEAD_ACTIVATION_ADVICE
    if missing:
        raise UsageError(
            f"{source.path} is of {variant.name} and needs {' and '.join(missing)}: "
            f"{'; and '.join(missing.values())}."
        )


def _origin_of_unsaid(source: Source) -> Origin:
    """Where the settings come from that nobody had to say."""
    provenance = source.provenance
    return "default" if provenance == "checkpoint" else provenance


def _legacy_origin(structure: Structure, source: Source, *, said: bool) -> Origin:
    if structure.causal is not None:
        return "checkpoint"
    return "user" if said and source.kind == "given" else _origin_of_unsaid(source)


def _check_unpinned(source: Source, structure: Structure, variant: Variant) -> None:
    """Weights that nobody has pinned have at least the class count of the release."""
    if source.provenance == "unpinned" and structure.classes != KINETICS_600_CLASSES:
        raise CheckpointError(
            f"{source.path} came from the address of the release of {variant.name} but has "
            f"{structure.classes or 'no'} classes where the release has {KINETICS_600_CLASSES}; "
            "it is another model: convert it with --checkpoint, and say its settings."
        )


def _contradiction(
    checkpoint: Checkpoint, structure: Structure, asked: Variant, found: Variant
) -> str:
    causal = " --causal" if found.causal else ""
    advice = f"convert it with --arch {found.arch}{causal}"
    if asked == Variant(structure.arch, "stream") and structure.may_be_legacy:
        advice += ", or with --causal --legacy if it is one of the older 3D stream models"
    return f"{checkpoint.source} looks like {found.name}, not {asked.name}; {advice}."


def _legacy_settings(structure: Structure, gating: Gating | None) -> Settings:
    if gating not in (None, "sigmoid"):
        raise UsageError(
            f"Legacy stream models gate with a sigmoid, not with {gating!r}; leave --gating out."
        )
    return Settings(
        causal=True,
        conv_type="3d",
        se_type=structure.se_type,
        activation="swish",
        gating="sigmoid",
        positional_encoding=structure.positional_encoding,
    )


def _check_settings(
    checkpoint: Checkpoint, structure: Structure, settings: Settings, variant: Variant
) -> None:
    """Refuse a network of no known settings, rather than convert it into another one."""
    found = (structure.conv_type, structure.se_type)
    expected = (settings.conv_type, settings.se_type)
    if found != expected:
        raise CheckpointError(
            f"{checkpoint.source} has {found[0]} convolutions and {found[1]} squeeze-excitation "
            f"where {variant.name} has {expected[0]} and {expected[1]}; no MoViNet was released "
            "with these settings, and it cannot be converted."
        )
    if structure.positional_encoding != settings.positional_encoding:
        has = "has" if structure.positional_encoding else "lacks"
        raise CheckpointError(
            f"{checkpoint.source} {has} the positional encoding, unlike the released "
            f"{variant.name}; it is incomplete, or was trained with other settings."
        )
