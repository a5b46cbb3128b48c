"""What the tests share: checkpoints written by the official model, and really trained ones."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from movinet_convert.variants import get_variant

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKPOINTS_VARIABLE = "MOVINET_CHECKPOINTS"

# The tests run in one process a core; more threads would only wait for one another. Set before
# either framework is imported, and handed on to processes that tests start.
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(variable, "1")

# TensorFlow's graphs are millions of objects that stay; walking them takes a fifth of the time.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session")
def synthetic_archive(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The seeded archive of a variant, written once a session by the official model."""
    from movinet_convert.parity.archive import write_synthetic_archive

    folder = tmp_path_factory.mktemp("synthetic")

    def archive(name: str) -> Path:
        variant = get_variant(name)
        path = folder / variant.archive_name
        return path if path.exists() else write_synthetic_archive(variant, folder)

    return archive


@pytest.fixture(scope="session")
def real_checkpoints() -> Path:
    """The folder of checkpoints that whoever runs the tests has; skips where there is none."""
    folder = os.environ.get(CHECKPOINTS_VARIABLE)
    if not folder:
        pytest.skip(f"${CHECKPOINTS_VARIABLE} names no folder with checkpoints")
    return Path(folder)
