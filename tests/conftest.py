"""What the tests share: checkpoints written by the official model, and really trained ones."""

from __future__ import annotations

import gc
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from movinet_convert import variants
from movinet_convert.variants import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

CHECKPOINTS_VARIABLE = "MOVINET_CHECKPOINTS"

# The tests run in one process a core; more threads would only wait for one another. Set before
# either framework is imported, and handed on to processes that tests start.
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(variable, "1")

# TensorFlow's graphs are millions of objects that stay; walking them takes a fifth of the time.
gc.set_threshold(100_000, 50, 100)

# Packages that only an extra brings; a test that needs one skips where it is not installed.
OPTIONAL = (
    *("tensorflow", "tf_keras", "official", "onnx", "onnxruntime", "openvino", "executorch"),
    *("ai_edge_litert", "litert_torch", "ai_edge_quantizer"),
)


def _missing_package(error: BaseException | None) -> str | None:
    """The optional package for whose absence a test broke off, if that is why."""
    while error is not None:
        name = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if name in OPTIONAL and importlib.util.find_spec(name) is None:
            return name
        error = error.__cause__ or error.__context__
    return None


def _skipping_without_extras(item: pytest.Item) -> Generator[None, Any, Any]:
    try:
        return (yield)
    except Exception as error:
        missing = _missing_package(error)
        if missing is None:
            raise
        pytest.skip(f"needs {missing}, of an extra that is not installed")


pytest_runtest_setup = pytest.hookimpl(wrapper=True)(_skipping_without_extras)
pytest_runtest_call = pytest.hookimpl(wrapper=True)(_skipping_without_extras)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checkpoints are recognised by what the user's cache recorded, which tests must not see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVINET_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _official_addresses() -> Iterator[None]:
    """A test that leaves the address of its own server behind fails itself, not a later one."""
    before = variants.MODEL_GARDEN_ROOT, variants.KAGGLE_ROOT
    yield
    assert before == (variants.MODEL_GARDEN_ROOT, variants.KAGGLE_ROOT)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """``torch.compile`` remembers sizes of other tests, and would make graphs for any size."""
    import torch

    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="session")
def synthetic_archive(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The seeded archive of a variant, written once a session by the official model."""
    from movinet_convert.parity.synthetic import write_synthetic_archive

    folder = tmp_path_factory.mktemp("synthetic")

    def archive(name: str) -> Path:
        variant = VARIANTS[name]
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
