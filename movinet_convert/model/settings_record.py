"""Settings that travel with a state dict, so that no network computes with another one's gate.

Two networks of equal tensors may compute different things: which hard sigmoid the gate is shows in
no tensor. ``model.state_dict()`` therefore carries the settings in the metadata that PyTorch keeps
beside the tensors, through ``torch.save`` and ``torch.load`` too, and ``load_state_dict`` compares.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

from movinet_convert.errors import MovinetWarning, WeightsError
from movinet_convert.variants import KINETICS_600_CLASSES, Origin, Origins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from movinet_convert.model.network import MoViNet

METADATA_KEY = "movinet_convert"
UNSAID_GATING = (
    "This state dict does not record the gating of its network, as one that came without the "
    "metadata of model.state_dict() cannot, and nobody chose the gating of this {name}, which "
    "computes with {gating!r}. No tensor tells which one the weights were trained with: pass "
    "create_model({name!r}, gating='keras') for Google's releases of 2021, TF-Hub models and "
    "training with tf-models-official up to 2.7; gating='model-garden' for training with 2.8 or "
    "later."
)


def record(model: MoViNet) -> dict[str, Any]:
    """What a state dict says of the network it is from, in types that ``torch.load`` trusts."""
    origins = None if model.origins is None else asdict(model.origins)
    return {"settings": asdict(model.settings), "origins": origins}


def compare(model: MoViNet, metadata: Mapping[str, Any]) -> None:
    """Compare the record in a state dict's ``metadata`` with the network that is to take it.

    The network takes over the recorded origins of its settings. Raises WeightsError for other
    settings; warns where none are recorded and the weights may be for another gate.
    """
    recorded = metadata.get(METADATA_KEY)
    settings = recorded.get("settings") if isinstance(recorded, dict) else None
    if not isinstance(recorded, dict) or not isinstance(settings, dict):
        _warn_of_unsaid_gating(model)
        return
    own = asdict(model.settings)
    other = {name: settings[name] for name in own if settings.get(name, own[name]) != own[name]}
    if other:
        raise WeightsError(
            f"This state dict is of a network with {_listed(other)} where this {model.variant.name}"
            f" has {_listed({name: own[name] for name in other})}, and would give wrong results; "
            "create the network with the settings of the weights, as in "
            "create_model(name, gating=..., head_activation=...)."
        )
    model.origins = _origins(recorded.get("origins")) or model.origins


def _warn_of_unsaid_gating(model: MoViNet) -> None:
    chosen = model.origins is None or model.origins.gating != "default"
    unambiguous = not model.settings.causal or model.settings.gating == "sigmoid"
    if chosen or unambiguous or model.num_classes == KINETICS_600_CLASSES:
        return
    message = UNSAID_GATING.format(name=model.variant.name, gating=model.settings.gating)
    # From load_state_dict, through its two calls, to whoever called it.
    warnings.warn(message, MovinetWarning, stacklevel=6)


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {str(value)[:40]!r}" for name, value in settings.items())


def _origins(recorded: object) -> Origins | None:
    names = set(Origins.__dataclass_fields__)
    if not isinstance(recorded, dict) or recorded.keys() != names:
        return None
    known = get_args(Origin)
    if any(not isinstance(value, str) or value not in known for value in recorded.values()):
        return None
    return Origins(**recorded)
