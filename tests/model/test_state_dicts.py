"""State dicts say which settings their weights are for, so that none is taken for another's."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from movinet_convert import create_model
from movinet_convert.errors import WeightsError
from movinet_convert.model import MoViNet
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import Origins


def garden(**options: Any) -> MoViNet:
    return create_model("t0-stream", num_classes=7, gating="model-garden", **options)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


WAYS = {
    "as it is": lambda state: state,
    "saved": through_a_file,
    "inside a checkpoint": lambda state: through_a_file({"model": state})["model"],
    "copied": copy.deepcopy,
    "pickled": lambda state: pickle.loads(pickle.dumps(state)),
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_for_the_other_gating_are_rejected_without_side_effects(way: str) -> None:
    state = WAYS[way](garden().state_dict())
    model = create_model("t0-stream", num_classes=7)
    before = model.stem.conv.weight.clone()
    with pytest.raises(WeightsError, match="gating 'model-garden' where .* has gating 'keras'"):
        model.load_state_dict(state)
    assert torch.equal(model.stem.conv.weight, before)
    again = garden()
    again.load_state_dict(state)
    assert torch.equal(again.stem.conv.weight, state["stem.conv.weight"])


def test_every_setting_is_compared() -> None:
    state = garden(head_activation="hard_swish").state_dict()
    with pytest.raises(WeightsError, match=r"head_activation 'hard_swish' where .* 'swish'"):
        garden().load_state_dict(state)
    with pytest.raises(WeightsError, match="'model-garden'"):
        create_model("t0-stream", num_classes=7).load_state_dict(state, strict=False)


def test_wrapped_models_keep_the_settings() -> None:
    wrapped = nn.ModuleDict({"model": garden()}).state_dict()
    with pytest.raises(WeightsError, match="gating"):
        nn.ModuleDict({"model": create_model("t0-stream", num_classes=7)}).load_state_dict(wrapped)
    compiled = torch.compile(garden())
    compiled.load_state_dict(compiled.state_dict())
    with pytest.raises(WeightsError, match="gating"):
        torch.compile(create_model("t0-stream", num_classes=7)).load_state_dict(
            compiled.state_dict()
        )


def test_bare_weights_of_custom_classes_warn_with_the_default_gating() -> None:
    bare = dict(garden().state_dict())
    with pytest.warns(UserWarning, match="keras.*model-garden") as caught:
        create_model("t0-stream", num_classes=7).load_state_dict(bare)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="does not record its gating"):
        MoViNet(get_variant("t0-stream"), num_classes=7).load_state_dict(bare)


@pytest.mark.parametrize("settings", [{"gating": "keras"}, {"num_classes": 600}, {"base": True}])
def test_bare_weights_load_without_warning_where_the_gating_is_known(
    settings: dict[str, Any],
) -> None:
    name = "t0-base" if settings.pop("base", False) else "t0-stream"
    model = create_model(name, **{"num_classes": 7, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_state_dict(dict(model.state_dict()))


def test_loading_a_state_dict_adopts_the_origins_of_its_settings() -> None:
    saved = create_model("t0-stream", num_classes=7)
    saved.origins = Origins(gating="release", head_activation="release", legacy="release")
    model = create_model("t0-stream", num_classes=7)
    model.load_state_dict(through_a_file(saved.state_dict()))
    assert model.origins == saved.origins


@pytest.mark.parametrize("foreign", [None, "text", {"settings": 3}, {"settings": {}, "origins": 1}])
def test_unknown_metadata_is_ignored(foreign: object) -> None:
    model = garden()
    state = model.state_dict()
    state._metadata[""]["movinet_convert"] = foreign  # type: ignore[attr-defined]
    model.load_state_dict(state)
    assert model.origins == Origins(gating="user", head_activation="default", legacy="default")
