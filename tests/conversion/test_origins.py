"""Settings that no checkpoint determines are recorded with their origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from movinet_convert import convert, load_converted
from movinet_convert.cli.app import main
from movinet_convert.conversion.sources import Source
from movinet_convert.conversion.verification import verify
from movinet_convert.errors import CheckpointError, MovinetWarning, UsageError, WeightsError
from movinet_convert.variants import RELEASES, Origins, Release
from movinet_convert.weights.file import read_header
from tests.helpers.seeded import choices, variables, write_checkpoint

NAME = "t0-stream"


def release_of(path: Path) -> Source:
    """A download from the URL of a release whose digest is not pinned."""
    return Source(path, "movinet_t0_stream.tar.gz", "release")


def converted(source: Any, out: Path, name: str = NAME, **said: Any) -> Origins | None:
    stored = convert(name, source, out=out, parity=None, **said).stored
    header = read_header(stored.path)
    assert header.origins == stored.entry.origins
    assert load_converted(stored.path).origins == header.origins
    return header.origins


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), NAME)


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinetics")
    return write_checkpoint(folder, NAME, variables(NAME, num_classes=600))


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ({"gating": "keras"}, "needs a head activation: .*--head-activation hard_swish"),
        ({"head_activation": "swish"}, "needs a gating: .*--gating model-garden"),
        ({}, "needs a gating and a head activation: .*--gating .*--head-activation"),
    ],
)
def test_stream_checkpoint_other_than_release_needs_both_choices(
    said: dict[str, str], advice: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=advice):
        convert(NAME, checkpoint, out=tmp_path / "store", parity=None, **said)
    assert not (tmp_path / "store").exists()


def test_records_choices_of_user(checkpoint: Path, tmp_path: Path) -> None:
    assert converted(checkpoint, tmp_path, **choices(NAME)) == Origins("user", "user", "checkpoint")


def test_base_checkpoint_needs_no_choices(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", "t0-base")
    origins = converted(base, tmp_path / "store", "t0-base")
    assert origins == Origins("default", "default", "user")
    stored = convert(None, base, out=tmp_path / "unsaid", parity=None).stored
    assert stored.entry.origins == Origins("default", "default", "default")


def test_unpinned_release_is_marked_as_such(kinetics: Path, tmp_path: Path) -> None:
    origins = converted(release_of(kinetics), tmp_path)
    assert origins == Origins("unpinned", "unpinned", "checkpoint")


def test_weights_with_other_class_count_are_not_a_release(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="7 classes instead of 600"):
        convert(NAME, release_of(checkpoint), out=tmp_path, parity=None)


def test_loading_synthetic_weights_warns(kinetics: Path, tmp_path: Path) -> None:
    source = Source(kinetics, "synthetic, seed 0", "synthetic")
    stored = convert(NAME, source, out=tmp_path, parity=None).stored
    assert stored.entry.source.kind == "synthetic"
    with pytest.warns(MovinetWarning, match="random synthetic weights"):
        load_converted(NAME, weights_dir=tmp_path)


def test_converting_older_checkpoint_again_makes_it_current(
    checkpoint: Path, kinetics: Path, tmp_path: Path
) -> None:
    for path in (checkpoint, kinetics):
        convert(NAME, path, **choices(NAME), out=tmp_path, parity=None)
    assert load_converted(NAME, weights_dir=tmp_path).num_classes == 600
    again = convert(NAME, checkpoint, **choices(NAME), out=tmp_path, parity=None)
    assert not again.stored.created
    assert load_converted(NAME, weights_dir=tmp_path).num_classes == 7


def test_names_tensor_with_value_out_of_range_of_dtype(tmp_path: Path) -> None:
    large = variables(NAME)
    name = "head/_project/_batch_norm/moving_variance"
    large[name] = np.full_like(large[name], 1e5)
    path = write_checkpoint(tmp_path / "large", NAME, large)
    store = tmp_path / "store"
    with pytest.raises(
        CheckpointError, match=r"head\.norm\.running_var .* 100000, beyond .* float16"
    ):
        convert(NAME, path, **choices(NAME), out=store, dtype="float16", parity=None)
    assert not store.exists()
    convert(NAME, path, **choices(NAME), out=store, dtype="bfloat16", parity=None)


def test_verifies_file_against_its_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    convert(NAME, checkpoint, **choices(NAME), out=tmp_path / "store", parity=None)
    other = variables(NAME)
    name = "head/_project/_batch_norm/beta"
    other[name] = other[name] + np.float32(0.25)
    path = write_checkpoint(tmp_path / "other", NAME, other)
    with pytest.raises(
        WeightsError, match=r"not converted from .*head\.norm\.bias differs .* 0\.25"
    ):
        verify(NAME, checkpoint=path, weights_dir=tmp_path / "store")


@pytest.mark.parametrize("kind", ["synthetic", "given", "release"])
def test_published_accuracy_is_shown_only_for_pinned_releases(
    kind: Any, kinetics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(store: Path) -> str:
        return CliRunner().invoke(main, ["list", "--weights-dir", str(store)]).stdout

    def row_of(store: Path) -> str:
        return next(line for line in listed(store).splitlines() if NAME in line)

    convert(NAME, Source(kinetics, "x", kind), **choices(NAME), out=tmp_path / "other", parity=None)
    assert "67.17" not in row_of(tmp_path / "other")
    pinned = Source(kinetics, "x", kind, archive_sha256="5" * 64)
    monkeypatch.setitem(RELEASES, NAME, Release(1, "5" * 64))
    convert(NAME, pinned, out=tmp_path / "pinned", parity=None)
    row = row_of(tmp_path / "pinned")
    assert "67.17" in row
    assert "600 classes, float32, from x (release)\n    gating keras (release)" in listed(
        tmp_path / "pinned"
    )
    convert(NAME, pinned, gating="model-garden", out=tmp_path / "pinned", parity=None)
    row = row_of(tmp_path / "pinned")
    assert "67.17" not in row
