"""PyTorch gets as many threads as other processes leave cores free, unless the user chose."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from movinet_convert.cli import threads

CORES = 4


class Machine:
    """A machine of CORES cores, of which ``others`` are used by other processes, ``own`` by us."""

    others, own, seconds = 0.0, 0.0, 0.0

    def cpu_percent(self, interval: float | None = None, percpu: bool = False) -> list[float]:
        return [100 * (self.others + self.own) / CORES] * CORES

    def process(self) -> SimpleNamespace:
        return SimpleNamespace(
            cpu_affinity=lambda: list(range(CORES)), cpu_percent=lambda: 100 * self.own
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", made.cpu_percent)
    monkeypatch.setattr(psutil, "Process", made.process)
    monkeypatch.setattr(time, "monotonic", lambda: made.seconds)
    monkeypatch.setattr(threads, "QUOTA", Path("does-not-exist"))
    before = torch.get_num_threads()
    torch.set_num_threads(CORES)
    yield made
    torch.set_num_threads(before)


@pytest.mark.parametrize(("busy", "expected"), [(0, 4), (1, 3), (2.4, 2), (4, 1)])
def test_the_threads_are_as_many_as_cores_are_free(
    machine: Machine, busy: float, expected: int
) -> None:
    machine.others = busy
    threads.follow_load()
    assert torch.get_num_threads() == expected


def test_the_threads_follow_the_load_and_do_not_count_this_process(machine: Machine) -> None:
    adapt = threads.follow_load()
    machine.own, machine.others = 1.0, 3.0
    adapt()
    assert torch.get_num_threads() == 4  # it is not a second ago
    machine.seconds = 1.5
    adapt()
    assert torch.get_num_threads() == 1
    machine.own, machine.others, machine.seconds = 4.0, 0.0, 3.0
    adapt()
    assert torch.get_num_threads() == 4


def test_another_runtime_gets_the_free_cores_where_others_are_busy(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threads.runtime_threads() is None
    machine.others = 3
    assert threads.runtime_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads.runtime_threads() is None


def test_all_cores_are_free_where_the_system_does_not_tell(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untold(*_: object, **__: object) -> list[float]:
        raise psutil.AccessDenied

    machine.others = 4
    monkeypatch.setattr(os, "cpu_count", lambda: CORES)
    for told in (untold, lambda *_, **__: [100.0]):
        monkeypatch.setattr(psutil, "cpu_percent", told)
        threads.follow_load()
        assert torch.get_num_threads() == CORES


def test_a_user_who_chose_the_threads_keeps_them(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.others = 4
    threads.follow_load(3)()
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    threads.follow_load()()
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 1), ("max 100000", 4)])
def test_a_container_gets_no_more_threads_than_its_quota(
    machine: Machine, quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    threads.QUOTA.write_text(quota)
    threads.follow_load()
    assert torch.get_num_threads() == expected
