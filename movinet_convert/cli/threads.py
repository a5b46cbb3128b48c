"""How many threads PyTorch uses where ``--threads`` does not say so: as many as cores are free.

After each operation the threads wait for the last one. Where other processes need the cores, that
one waits for its turn while the others spin, and two threads take many times as long as one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FIRST_SECONDS = 0.1  # over which the load is measured at the start
EVERY_SECONDS = 1.0  # after which it is measured again
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of each period


def follow_load(threads: int = 0) -> Callable[[], None]:
    """Limit PyTorch to the free cores; the returned function adapts the limit to the load.

    It is cheap, and measures at most once a second. With ``threads``, or if ``$OMP_NUM_THREADS`` is
    set, nothing is changed. The thread that runs the network must call both.
    """
    if threads or os.environ.get("OMP_NUM_THREADS"):
        return lambda: None
    import torch

    most, free = torch.get_num_threads(), _free_cores()
    measured_at = time.monotonic()

    def limit() -> None:
        nonlocal measured_at
        if time.monotonic() - measured_at >= EVERY_SECONDS:
            measured_at = time.monotonic()
            torch.set_num_threads(thread_count(free(), most))

    torch.set_num_threads(thread_count(free(), most))
    return limit


def runtime_threads() -> int | None:
    """The threads for another runtime, which keeps them; None for its own choice.

    It has the choice where all cores are free, or where the user has set ``$OMP_NUM_THREADS``.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    import torch

    most = torch.get_num_threads()
    count = thread_count(_free_cores()(), most)
    return count if count < most else None


def following_load(stage: Callable[[str], object]) -> Callable[[str], None]:
    """Limit PyTorch to the free cores, and again whenever the returned ``stage`` is called."""
    adapt = follow_load()

    def adapted(reached: str) -> None:
        adapt()
        stage(reached)

    return adapted


def thread_count(free_cores: float, most: int) -> int:
    """The number of threads for so many free cores, from 1 to ``most`` and to a container's."""
    return max(1, min(most, int(container_cores() or most), round(free_cores)))


def container_cores() -> float | None:
    """The cores that a container may use by its quota; None without one."""
    with suppress(OSError, ValueError):
        quota, period = QUOTA.read_text("ascii").split()
        return int(quota) / int(period)
    return None


def _free_cores() -> Callable[[], float]:
    """A function that measures how many cores other processes have left free since its last call.

    The first time, it waits FIRST_SECONDS. Where the system does not tell, all are free.
    """
    import psutil

    every = float(os.cpu_count() or 1)
    try:
        this = psutil.Process()
        affinity = this.cpu_affinity() if hasattr(this, "cpu_affinity") else range(round(every))
        this.cpu_percent()
    except (psutil.Error, OSError):
        return lambda: every
    interval: float | None = FIRST_SECONDS

    def measure() -> float:
        nonlocal interval
        try:
            busy = psutil.cpu_percent(interval, percpu=True)
            interval = None
            others = sum(busy[core] for core in affinity) - this.cpu_percent()
        except (psutil.Error, OSError, IndexError):  # some containers list only their own cores
            return every
        return float(len(affinity) - max(0.0, others) / 100)

    return measure
