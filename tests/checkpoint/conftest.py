"""Checkpoints that the tests of this folder share; each is written once per run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint import official


@pytest.fixture(scope="session")
def a0_stream() -> Any:
    return official.build("a0-stream")


@pytest.fixture(scope="session")
def released(a0_stream: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of an A0-Stream in the layout of the releases."""
    return official.save_model_garden(a0_stream, tmp_path_factory.mktemp("movinet_a0_stream"))


@pytest.fixture(scope="session")
def trained_folder() -> Path:
    """The really trained A0-Stream in the folder that MOVINET_CHECKPOINTS names."""
    root = os.environ.get("MOVINET_CHECKPOINTS")
    if not root:
        pytest.skip("MOVINET_CHECKPOINTS is not set")
    folder = Path(root) / "movinet_a0_stream_cattle7"
    if not folder.is_dir():
        pytest.skip(f"{root} holds no movinet_a0_stream_cattle7")
    return folder
