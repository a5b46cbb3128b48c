"""Checkpoints with really trained weights, from the folder named by MOVINET_CHECKPOINTS."""

from __future__ import annotations

from pathlib import Path

import pytest

from movinet_convert import convert
from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.checkpoint.structure import read_structure
from movinet_convert.errors import CheckpointError
from movinet_convert.parity.options import ParityOptions

SMALL = ParityOptions(frames=5, size=(96, 96))
GATINGS = {"movinet_a0_stream_cattle7": "model-garden"}  # trained after the releases


def folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if not path.name.startswith("."))


def test_checkpoints_with_weights_are_converted_and_verified(
    real_checkpoints: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow")
    verified = 0
    for path in folders(real_checkpoints):
        try:
            checkpoint = open_checkpoint(path)
        except CheckpointError:
            continue
        said = {"gating": GATINGS.get(path.name, "keras"), "head_activation": "swish"}
        said = said if read_structure(checkpoint).causal else {}
        conversion = convert(None, path, **said, out=tmp_path, parity=SMALL)
        assert conversion.parity is not None
        assert conversion.parity.passed
        assert all(case.logits.tf_fp32_pt_fp32 <= 1e-5 for case in conversion.parity.cases)
        assert conversion.parity.nearer_than_reference
        verified += 1
    assert verified > 0


def test_index_without_data_is_a_clear_error(real_checkpoints: Path) -> None:
    path = real_checkpoints / "tfhub_movinet_a2_base_k600"
    if not path.exists():
        pytest.skip(f"{real_checkpoints} has no {path.name}")
    with pytest.raises(CheckpointError, match=r"variables\.data-00000-of-00001"):
        convert("a2-base", path, parity=None)
