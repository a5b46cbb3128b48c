"""Files in every format, written once a session, of a network that compiles quickly."""

import functools
import importlib.util
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import pytest
from filelock import FileLock

from movinet_convert.export import ExportReport, export_model
from movinet_convert.model import MoViNet
from movinet_convert.variants import ARCHS
from tests.helpers.settled import settled_model
from tests.helpers.short_archs import in_the_official_code

SIZE = (34, 48)  # neither square nor odd nor a multiple of 32
LABELS = tuple("abcdefghij")
NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "executorch": ("executorch",),
    "litert": ("litert_torch", "ai_edge_quantizer"),
    "transformers": ("transformers", "av"),
    "tflite": ("tensorflow", "official", "ai_edge_litert"),
    "saved-model": ("tensorflow", "official"),
}
TENSORFLOW = ("tflite", "saved-model")


def require_runtime(format: str) -> None:
    for package in NEEDS.get(format, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{format} needs {package}, of an extra")
    if format == "aot-inductor" and shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("aot-inductor needs a C++ compiler")


@contextmanager
def _shortened() -> Iterator[None]:
    """T0 cut to five blocks, of every kind there is: compiling the others would be only slow.

    One is as wide as in large variants, where exporters fold constants no longer by themselves.
    """
    stages = [replace(stage, layers=stage.layers[:2]) for stage in ARCHS["t0"].stages[:3]]
    (_, kernel), second = stages[2].layers
    stages[2] = replace(stages[2], layers=((200, kernel), second))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHS, "t0", replace(ARCHS["t0"], stages=tuple(stages)))
        yield


def official(format: str) -> AbstractContextManager[None]:
    """The same blocks in the official code, for the formats that are written from it."""
    return in_the_official_code("t0") if format in TENSORFLOW else nullcontext()


@pytest.fixture(scope="module")
def short_t0() -> Iterator[None]:
    with _shortened():
        yield


@pytest.fixture(scope="session")
def stream_model() -> MoViNet:
    with _shortened():
        return settled_model("t0-stream", gating="keras")


@pytest.fixture(scope="session")
def base_model() -> MoViNet:
    with _shortened():
        return settled_model("t0-base")


@pytest.fixture(scope="session")
def step_file(
    stream_model: MoViNet, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], ExportReport]:
    """The frame step in a format, in float32; written once for all processes of the tests."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "steps"

    @functools.cache
    def written(format: str) -> ExportReport:
        require_runtime(format)
        report = folder / f"{format}.report"
        folder.mkdir(exist_ok=True)
        with FileLock(f"{report}.lock"):
            if not report.exists():
                path = folder / format / "step"
                with _shortened(), official(format):
                    made = export_model(stream_model, path, format, size=SIZE, labels=LABELS)
                report.write_bytes(pickle.dumps(made))
            exported: ExportReport = pickle.loads(report.read_bytes())
        return exported

    return written
