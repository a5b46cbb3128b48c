"""Synthetic weights: the same everywhere, and behaving like trained ones."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from movinet_convert.model.settings import get_variant
from movinet_convert.parity.synthetic import synthetic_variables, write_synthetic_archive
from tests.helpers.parity_tools import assert_logits_vary, synthetic_model, variable_shapes

A0 = "a0-stream"


def a0_variables(seed: int = 0) -> dict[str, np.ndarray]:
    return synthetic_variables(get_variant(A0), variable_shapes(A0, 20), seed=seed)


def test_bytes_depend_only_on_the_seed() -> None:
    first, again, other = a0_variables(), a0_variables(), a0_variables(seed=1)
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert all((first[name] != other[name]).any() for name in first)


def test_values_depend_on_names_and_not_on_variable_order() -> None:
    shapes = variable_shapes(A0, 20)
    backwards = dict(reversed(shapes.items()))
    first = synthetic_variables(get_variant(A0), shapes)
    other = synthetic_variables(get_variant(A0), backwards)
    assert all(first[name].tobytes() == other[name].tobytes() for name in first)


def test_bytes_do_not_depend_on_vector_instructions() -> None:
    # NumPy reports which sets of instructions it has code for; it must do without all of them.
    script = (
        "import hashlib; from tests.parity.test_synthetic import a0_variables as v;"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in v().values())).hexdigest())"
    )
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    dispatched = " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": dispatched},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    here = hashlib.sha256(b"".join(array.tobytes() for array in a0_variables().values()))
    assert result.stdout.strip() == here.hexdigest()


def test_rezero_scales_have_the_magnitude_and_signs_of_trained_ones() -> None:
    scales = np.array([v for n, v in a0_variables().items() if "bottleneck/_rezero" in n])
    assert (np.abs(scales) >= 1.6).all()
    assert (np.abs(scales) <= 2.5).all()
    assert (scales > 0).any()
    assert (scales < 0).any()


def test_positional_encodings_affect_the_logits() -> None:
    name = "a3-stream"
    variables = synthetic_variables(get_variant(name), variable_shapes(name, 20))
    scales = [v for n, v in variables.items() if "_pos_encoding" in n]
    assert len(scales) == 33
    assert all(abs(scale) >= 0.1 for scale in scales)


def test_batch_norms_are_far_from_the_identity() -> None:
    identity = {"gamma": 1.0, "beta": 0.0, "moving_mean": 0.0, "moving_variance": 1.0}
    for name, array in a0_variables().items():
        kind = name.rsplit("/", 1)[1]
        if kind in identity:
            assert np.abs(array - identity[kind]).mean() > 0.02, name
        if kind == "moving_variance":
            assert (array > 0).all(), name


@pytest.mark.parametrize("name", ["t0-base", "t0-stream"])  # the others: test_all_variants.py
def test_logits_vary_between_clips(name: str) -> None:
    assert_logits_vary(synthetic_model(name)[0])


def test_the_archive_has_the_released_layout_and_reproducible_bytes(tmp_path: Path) -> None:
    variant = get_variant("a0-base")
    archives = [write_synthetic_archive(variant, tmp_path / str(i)) for i in range(2)]
    assert archives[0].name == "movinet_a0_base.tar.gz"
    with tarfile.open(archives[0], "r:") as tar:  # "r:" is an uncompressed tar and nothing else
        assert tar.getnames() == [
            "movinet_a0_base",
            "movinet_a0_base/checkpoint",
            "movinet_a0_base/ckpt-1.data-00000-of-00001",
            "movinet_a0_base/ckpt-1.index",
        ]
    assert archives[0].read_bytes() == archives[1].read_bytes()
