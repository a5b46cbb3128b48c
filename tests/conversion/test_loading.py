"""Loading a variant that the store lacks: its release is fetched and converted."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from movinet_convert import convert, load_converted
from movinet_convert.conversion.sources import given
from movinet_convert.conversion.tensors import convert_checkpoint
from movinet_convert.errors import (
    CheckpointError,
    DownloadError,
    MovinetWarning,
    UsageError,
    WeightsError,
)
from movinet_convert.variants import KINETICS_600_CLASSES, TENSOR_DIGESTS
from movinet_convert.weights.store import Store
from tests.helpers.seeded import write_checkpoint
from tests.scripts.test_regenerate import write_archive

NAME = "a0-base"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror with the release, which is the source of downloads; no TensorFlow."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    write_archive(folder, NAME)
    monkeypatch.setenv("MOVINET_SOURCE", str(folder))
    monkeypatch.setenv("MOVINET_CACHE_DIR", str(tmp_path / "cache"))
    for module in ("tensorflow", "tf_keras", "official"):
        monkeypatch.setitem(sys.modules, module, None)
    return folder


def digest(mirror: Path) -> str:
    return convert_checkpoint(given(next(mirror.iterdir())), name=NAME).digest


def test_converts_the_release_at_first_use(mirror: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(WeightsError, match="download=True"):
        load_converted(NAME, weights_dir=store)
    with pytest.warns(MovinetWarning, match="without comparing.*No digest .* is published.*verify"):
        model = load_converted(NAME, weights_dir=store, download=True)
    assert model.num_classes == KINETICS_600_CLASSES
    with warnings.catch_warnings():  # from the store
        warnings.simplefilter("error")
        again = load_converted(NAME, weights_dir=store, download=True, num_classes=5)
    assert again.num_classes == 5
    assert torch.equal(again.stem.conv.weight, model.stem.conv.weight)
    assert Store(store).find(NAME).source.trust == "first use"


def test_the_first_version_can_be_named_too(mirror: Path, tmp_path: Path) -> None:
    with pytest.warns(MovinetWarning, match="without comparing"):
        model = load_converted(f"{NAME}@1", weights_dir=tmp_path, download=True)
    assert model.variant.name == NAME


def test_warning_names_the_line_that_loads(mirror: Path, tmp_path: Path) -> None:
    with pytest.warns(MovinetWarning) as caught:
        load_converted(NAME, weights_dir=tmp_path / "store", download=True)
    assert [warning.filename for warning in caught] == [__file__]


def test_tensors_must_have_the_pinned_digest(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TENSOR_DIGESTS, NAME, "0" * 64)
    with pytest.raises(CheckpointError, match="has other tensors than the released"):
        load_converted(NAME, weights_dir=tmp_path / "store", download=True)
    assert not Store(tmp_path / "store").manifest().versions(NAME)
    monkeypatch.setitem(TENSOR_DIGESTS, NAME, digest(mirror))
    with pytest.warns(MovinetWarning, match="without comparing.*is the published one"):
        load_converted(NAME, weights_dir=tmp_path / "store", download=True)
    assert Store(tmp_path / "store").find(NAME).source.kind == "release"


def test_weights_in_the_store_are_kept(mirror: Path, tmp_path: Path) -> None:
    (mirror / next(mirror.iterdir())).unlink()
    convert(NAME, write_checkpoint(tmp_path / "mine", NAME), out=tmp_path / "store", parity=None)
    assert load_converted(NAME, weights_dir=tmp_path / "store", download=True).num_classes == 7


def test_failed_download_leaves_the_store_as_it_was(mirror: Path, tmp_path: Path) -> None:
    next(mirror.iterdir()).unlink()
    with pytest.raises(DownloadError, match="cannot be read"):
        load_converted(NAME, weights_dir=tmp_path / "store", download=True)
    assert not (tmp_path / "store").exists()
    with pytest.raises(UsageError, match="t0-base"):
        load_converted("t0-base", weights_dir=tmp_path / "store", download=True)


def test_interrupted_conversion_starts_again(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    store = tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr("movinet_convert.conversion.pipeline.read_network", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_converted(NAME, weights_dir=store, download=True)
    assert not list(store.glob("*.safetensors"))
    with pytest.warns(MovinetWarning):
        load_converted(NAME, weights_dir=store, download=True)


def test_two_processes_at_first_use(mirror: Path, tmp_path: Path) -> None:
    code = f"from movinet_convert import load_converted; load_converted({NAME!r}, download=True)"
    environment = {**os.environ, "MOVINET_WEIGHTS_DIR": str(tmp_path / "store")}
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    (entry,) = Store(tmp_path / "store").manifest().versions(NAME)
    assert Store(tmp_path / "store").is_intact(entry)
