"""A store like that of ``scripts/regenerate_weights.py``, without TensorFlow.

The weights are seeded and the comparison's figures are made up; the files and their digests are
those of a real conversion.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import pytest

from movinet_convert.conversion.pipeline import staged
from movinet_convert.conversion.sources import given, release
from movinet_convert.conversion.tensors import convert_checkpoint
from movinet_convert.download.fetch import fetch_release
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.report import Section
from movinet_convert.parity.result import CaseResult, Distances, ParityResult
from movinet_convert.variants import KINETICS_600_CLASSES, TENSOR_DIGESTS, Variant
from movinet_convert.weights.entries import Coverage
from movinet_convert.weights.store import Store
from scripts.regenerate_weights import report_path
from tests.helpers.seeded import choices
from tests.scripts.test_regenerate import write_archive

DISTANCES = Distances(4.5e-6, 4e-6, 2.5e-6)
TOLERANCE = 1e-4
Origin = Literal["release", "mirror", "user"]


def result(variant: Variant, coverage: Coverage = "full") -> ParityResult:
    case = CaseResult("one clip", 8, (64, 64), (8,), 2.5, {"logits": DISTANCES})
    settings, classes = variant.settings(), KINETICS_600_CLASSES
    return ParityResult(
        variant.name, settings, classes, 0, 1, TOLERANCE, (case,), coverage=coverage
    )


def add_verified(
    folder: Path, name: str, origin: Origin = "release", coverage: Coverage = "full"
) -> Store:
    """Convert an archive into a store.

    It is a ``release`` whose tensors are pinned, one from a ``mirror`` that nothing identifies, or
    the ``user``'s.
    """
    variant, mirror, store = get_variant(name), folder / "mirror", Store(folder / "store")
    mirror.mkdir(parents=True, exist_ok=True)
    own = given(write_archive(mirror, name))
    converted = convert_checkpoint(own, name=name, **choices(name))
    if origin != "user":
        with pytest.MonkeyPatch.context() as patch:
            if origin == "release":
                patch.setitem(TENSOR_DIGESTS, name, converted.digest)
            fetched = fetch_release(variant, source=mirror, cache_dir=folder / "cache")
            converted = convert_checkpoint(release(fetched), name=name)
    figures = result(variant, coverage)
    with staged(converted, store) as file:
        stored = file.commit(figures)
    section = Section(
        parity=figures,
        layers={"stem": DISTANCES, "head": DISTANCES},
        tf_fp32_logits=(0.0, 1.0),
        pt_fp32_logits=(0.0, 1.0),
        origins=converted.origins,
        input=variant.input,
        accuracy=variant.accuracy,
        file=stored.path.name,
        bytes=stored.entry.bytes,
        sha256=stored.entry.sha256,
        dtype="float32",
        source=stored.entry.source,
        versions={"tensorflow": "2.20.0"},
        created=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )
    report = report_path(store.folder, stored.entry)
    report.parent.mkdir(exist_ok=True)
    report.write_text(section.model_dump_json(), "utf-8")
    return store
