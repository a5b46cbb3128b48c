"""A release is recognised by its tensors, whatever its file is called and wherever it came from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from movinet_convert.conversion import sources
from movinet_convert.conversion.inspection import inspect
from movinet_convert.conversion.pipeline import convert
from movinet_convert.conversion.tensors import convert_checkpoint
from movinet_convert.download.cache import FetchedRelease
from movinet_convert.download.known_tensors import RECORD_NAME
from movinet_convert.errors import CacheError, CheckpointError, MovinetWarning
from movinet_convert.variants import RELEASES, TENSOR_DIGESTS, Release
from movinet_convert.weights.store import Store
from tests.helpers.fetch_server import release_tar
from tests.helpers.seeded import variables, write_checkpoint

NAME = "a0-base"
KERNEL = "stem/_stem/_conv/kernel"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("MOVINET_CACHE_DIR", str(folder))
    return folder


def fetched(cache: Path, source: str = "model-garden", seed: int = 0) -> FetchedRelease:
    """A release as it lies in the cache after a download."""
    path = cache / f"{source}.tar"
    path.write_bytes(release_tar(NAME, seed=seed))
    return FetchedRelease(
        variant=NAME,
        path=path,
        sha256="0" * 64,
        bytes=path.stat().st_size,
        source=source,  # type: ignore[arg-type]
        version=None,
        address=f"https://{source}.example/movinet",
        legacy=False,
        first_use=True,
        downloaded=True,
        pinned=False,
    )


def checkpoint(folder: Path, **changed: np.ndarray[Any, Any]) -> Path:
    """The user's own copy of the released variables, perhaps with changes."""
    return write_checkpoint(folder, NAME, {**variables(NAME, 600), **changed})


def digest(path: Path) -> str:
    return convert_checkpoint(sources.given(path), name=NAME).digest


def test_a_release_is_trusted_on_first_use_and_recorded(cache: Path, tmp_path: Path) -> None:
    release = sources.release(fetched(cache))
    conversion = convert(NAME, release, out=tmp_path / "store", parity=None)
    entry = conversion.stored.entry.source
    assert (entry.trust, entry.kind) == ("first use", "unpinned")
    assert entry.digest in (cache / RECORD_NAME).read_text()
    assert Store(tmp_path / "store").manifest().variants[NAME].versions[0].source == entry


def test_the_same_tensors_from_the_other_source_are_accepted(cache: Path) -> None:
    first = convert_checkpoint(sources.release(fetched(cache)), name=NAME)
    other = convert_checkpoint(sources.release(fetched(cache, "kaggle")), name=NAME)
    assert first.source.known == other.source.known
    assert first.digest == other.digest


def test_other_tensors_from_the_other_source_are_an_error(cache: Path) -> None:
    convert_checkpoint(sources.release(fetched(cache)), name=NAME)
    before = (cache / RECORD_NAME).read_bytes()
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(sources.release(fetched(cache, "kaggle", seed=1)), name=NAME)
    message = str(caught.value)
    assert "https://kaggle.example/movinet has other tensors than" in message
    assert "fetched from https://model-garden.example/movinet" in message
    assert "is the first that differs, by up to 0." in message
    assert (cache / RECORD_NAME).read_bytes() == before


def test_pinned_tensors_refuse_others_at_first_use(cache: Path) -> None:
    release = sources.release(fetched(cache), pinned_tensors="1" * 64)
    with pytest.raises(CheckpointError, match=f"instead of {'1' * 64}"):
        convert_checkpoint(release, name=NAME)
    assert not (cache / RECORD_NAME).exists()


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors of the user's checkpoint as if they were those of the published release."""
    monkeypatch.setitem(TENSOR_DIGESTS, NAME, digest(checkpoint(tmp_path / "for the digest")))


@pytest.mark.usefixtures("pinned")
def test_the_tensors_of_a_release_are_recognised_in_any_file(tmp_path: Path) -> None:
    mine = checkpoint(tmp_path / "renamed")
    found = inspect(mine)
    assert found.release == NAME
    assert "these are the released Kinetics-600 weights of a0-base" in found.notes
    converted = convert_checkpoint(sources.given(mine), name=NAME)
    assert converted.source.provenance == "release"
    assert converted.origins.gating == "release"


@pytest.mark.usefixtures("pinned")
def test_one_changed_value_is_not_the_release(tmp_path: Path) -> None:
    kernel = variables(NAME, 600)[KERNEL].copy()
    kernel.flat[0] += np.float32(1e-6)
    mine = checkpoint(tmp_path / "fine-tuned", **{KERNEL: kernel})
    assert inspect(mine).release is None
    assert convert_checkpoint(sources.given(mine), name=NAME).source.provenance == "checkpoint"


def test_tensors_of_an_archive_with_a_published_digest_count_as_pinned(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = fetched(cache)
    monkeypatch.setitem(RELEASES, NAME, Release(release.bytes, release.sha256))
    convert_checkpoint(sources.release(release), name=NAME)
    kaggle = replace(fetched(cache, "kaggle"), sha256="2" * 64)
    assert sources.release(kaggle).provenance == "unpinned"
    converted = convert_checkpoint(sources.release(kaggle), name=NAME)
    assert converted.source.provenance == "release"
    assert inspect(checkpoint(tmp_path / "mine")).release == NAME


@pytest.mark.parametrize("name", ["movinet_a0_base_k400", "a0-kinetics-400", "Kinetics400"])
def test_kinetics_600_weights_named_after_kinetics_400_are_a_warning(
    name: str, tmp_path: Path
) -> None:
    mine = checkpoint(tmp_path / name)
    for job in (inspect, lambda path: convert_checkpoint(sources.given(path), name=NAME)):
        with pytest.warns(MovinetWarning, match="13566.*labels of Kinetics-600"):
            job(mine)


@pytest.fixture
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("_no_warnings")
@pytest.mark.parametrize(
    ("name", "classes"), [("k400", 400), ("k600", 600), ("k4000", 600), ("mine", 600)]
)
def test_other_names_and_class_counts_are_no_warning(
    name: str, classes: int, tmp_path: Path
) -> None:
    inspect(write_checkpoint(tmp_path / name, NAME, variables(NAME, classes)))


def test_a_damaged_record_is_one_sentence(cache: Path, tmp_path: Path) -> None:
    (cache / RECORD_NAME).write_text("{")
    with pytest.raises(CacheError, match="is damaged; delete it"):
        inspect(checkpoint(tmp_path / "mine"))
