"""All twelve variants against the official models: names, every case and state, and the way back.

Building an official model takes longer than what is done with it, so each is built once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from movinet_convert.checkpoint import mapping
from movinet_convert.export.tensorflow import export_checkpoint
from movinet_convert.model.create import tensor_shapes
from movinet_convert.parity.cases import random_clips
from movinet_convert.parity.comparison import verify_model
from movinet_convert.parity.options import ParityOptions
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.result import ParityResult
from movinet_convert.variants import list_variants
from tests.helpers.parity_tools import (
    assert_logits_vary,
    converted,
    forget,
    restore,
    stored_tensors,
    synthetic_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from movinet_convert.model import MoViNet

LIMIT = 1e-4  # relative to the std of the logits; 1e-5 is the goal
ROUNDING = 1e-5  # of PyTorch float32 against PyTorch float64
STREAM_CASES = ["one clip", "frame by frame", "uneven chunks", "batch", "not square", "odd size"]
BASE_CASES = ["one clip", "batch", "not square", "odd size"]
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


@dataclass(frozen=True)
class Pair:
    """The PyTorch network and the official one, with the same synthetic weights."""

    model: MoViNet
    variables: dict[str, Any]
    reference: Reference

    @property
    def name(self) -> str:
        return self.model.variant.name


def make_pair(name: str) -> Pair:
    model, variables = synthetic_model(name)
    reference = Reference(model.variant, model.settings, model.num_classes)
    reference.load(variables)
    return Pair(model, variables, reference)


@pytest.fixture(scope="module", params=list_variants())
def pair(request: pytest.FixtureRequest) -> Pair:
    return make_pair(request.param)


SMALL = ParityOptions(frames=5, size=(36, 36))


@pytest.fixture(scope="module")
def result_of() -> Callable[..., ParityResult]:
    """The result of a variant, computed once; clips are small, as TensorFlow's Conv3D is slow."""
    results: dict[str, ParityResult] = {}

    def of(name: str, pair: Pair | None = None) -> ParityResult:
        if name not in results:
            one = pair or make_pair(name)
            results[name] = verify_model(one.model, one.variables, SMALL, reference=one.reference)
        return results[name]

    return of


def test_table_has_each_variable_of_official_model_once(pair: Pair) -> None:
    variant, settings = pair.model.variant, pair.model.settings
    shapes = tensor_shapes(variant, settings, pair.model.num_classes)
    links = mapping.links(variant, settings.conv_type, shapes)
    assert {link.tf: link.tf_shape for link in links} == pair.reference.shapes
    assert len({link.tf for link in links}) == len({link.torch for link in links}) == len(links)


def test_logits_vary_between_clips(pair: Pair) -> None:
    assert_logits_vary(pair.model)


def test_every_case_and_state_is_within_tolerance(
    pair: Pair, result_of: Callable[..., ParityResult]
) -> None:
    result = result_of(pair.name, pair)
    assert [case.name for case in result.cases] == (
        STREAM_CASES if pair.model.settings.causal else BASE_CASES
    )
    for case in result.cases:
        assert 1 <= case.spread <= 10
        assert case.beyond(LIMIT) == []
    assert result.passed
    assert result.first_difference is None
    assert result.worst.pt_fp32_pt_fp64 <= ROUNDING


def test_loaded_tensors_and_logits_are_bitwise_equal(pair: Pair, tmp_path: Path) -> None:
    """TensorFlow -> PyTorch -> TensorFlow."""
    reference = pair.reference
    clip = random_clips(1, 5, 36, 36, seed=1)  # of a shape that the comparison has already traced
    logits, weights = reference.logits(clip), reference.variables()
    before = reference.save(tmp_path / "tensorflow")
    after = export_checkpoint(converted(pair.name, before), tmp_path / "ours")

    theirs, ours = stored_tensors(before), stored_tensors(after)
    assert ours.keys() == theirs.keys()
    for key in theirs.keys() - {OBJECT_GRAPH}:
        assert ours[key].dtype == theirs[key].dtype
        assert ours[key].tobytes() == theirs[key].tobytes(), key

    forget(reference)
    assert not np.array_equal(reference.logits(clip), logits)
    restore(reference, after)  # raises unless every object of the official model is matched
    restored = reference.variables()
    assert restored.keys() == weights.keys()
    assert all(restored[key].tobytes() == weights[key].tobytes() for key in weights)
    assert np.array_equal(reference.logits(clip), logits)


def test_ten_of_twelve_are_at_least_as_close_to_float64_as_tensorflow(
    result_of: Callable[..., ParityResult],
) -> None:
    nearer = [name for name in list_variants() if result_of(name).nearer_than_reference]
    assert len(nearer) >= 10
