"""No damage makes a reader crash, hang or silently return wrong weights."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts import fuzz, fuzzing
from scripts.fuzzing import Content, Target

TARGETS = (
    "bundle-index",
    "bundle-entries",
    "bundle-blocks",
    "bundle-state",
    "object-graph",
    "bundle-data",
    "tar",
    "gzip",
    "hdf5",
    "torch",
    "torch-pickle",
    "tflite",
    "safetensors",
    "manifest",
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Target]:
    found = fuzzing.make_targets(tmp_path_factory.mktemp("undamaged"))
    assert set(found) == set(TARGETS)
    return found


@pytest.fixture(scope="module")
def prober(
    targets: Mapping[str, Target], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, random.Random], str]:
    prepared: dict[str, tuple[Path, bytes, Content]] = {}

    def probe(name: str, rng: random.Random) -> str:
        target = targets[name]
        if name not in prepared:
            scratch = tmp_path_factory.mktemp("damaged")
            target.prepare(scratch)
            original = target.original.read_bytes()
            prepared[name] = scratch, original, target.read(target.original)
        scratch, original, expected = prepared[name]
        return target.probe(target.mutate(rng, original), scratch, expected)

    return probe


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=150,
    deadline=timedelta(seconds=5),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(rng=st.randoms(use_true_random=False))
def test_damaged_file_is_refused_or_read_as_stored(
    name: str, prober: Callable[[str, random.Random], str], rng: random.Random
) -> None:
    assert prober(name, rng) in ("refused", "same", "different")


def assert_flips_are_harmless(
    target: Target, scratch: Path, flips: int, rng: random.Random
) -> dict[str, int]:
    original = target.original.read_bytes()
    expected = target.read(target.original)
    target.prepare(scratch)
    outcomes = {"refused": 0, "same": 0}
    for _ in range(flips):
        outcomes[target.probe(fuzzing.flip_one_byte(rng, original), scratch, expected)] += 1
    return outcomes


@pytest.mark.parametrize("name", ["bundle-index", "bundle-data"])
def test_thousand_flipped_bytes_never_give_other_weights(
    name: str, targets: Mapping[str, Target], tmp_path: Path
) -> None:
    outcomes = assert_flips_are_harmless(targets[name], tmp_path, 1000, random.Random(7))
    assert outcomes["refused"] > 500


def test_flipped_bytes_of_tensorflow_checkpoint_never_give_other_weights(
    released: Path, tmp_path: Path
) -> None:
    for suffix in (".index", ".data-00000-of-00001"):
        file = released.with_name(released.name + suffix)
        target = Target(file, fuzzing.read_checkpoint, True, fuzzing.flip_one_byte)
        outcomes = assert_flips_are_harmless(target, tmp_path, 30, random.Random(11))
        assert outcomes["refused"] > 15


def crash(_: Path) -> Content:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def hang(_: Path) -> Content:
    time.sleep(60)
    return {}


def raise_foreign(_: Path) -> Content:
    raise KeyError("foreign")


def misread(path: Path) -> Content:
    return {"weights": path.read_bytes()}


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (crash, "ends the process"),
        (hang, "hangs"),
        (raise_foreign, "KeyError"),
        (misread, "wrong weights"),
    ],
)
def test_fuzzer_reports_failures_and_continues(
    read: Callable[[Path], Content],
    said: str,
    targets: Mapping[str, Target],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fuzz, "SECONDS_PER_INPUT", 0.5)
    target = targets["bundle-data"]
    original = target.original.read_bytes()

    def read_damaged(path: Path) -> Content:
        damaged = path != target.original and path.read_bytes() != original
        return read(path) if damaged else {"weights": original}

    broken = dataclasses.replace(target, read=read_damaged, mutate=fuzzing.flip_one_byte)
    tally = fuzz.fuzz(broken, range(3))
    assert len(tally.failures) == 3
    assert all(said in failure for failure in tally.failures)
    assert not fuzz.report("broken", tally, 1.0)


def test_script_fuzzes_target_and_exits_with_success() -> None:
    script = Path(fuzz.__file__)
    command = [sys.executable, str(script), "bundle-index", "--count", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "40 inputs" in done.stdout
    assert "0 failures" in done.stdout
