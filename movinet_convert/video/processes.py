"""The processes of one job under torchrun; without torchrun, a group of one."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed

TIMEOUT = datetime.timedelta(days=7)  # one process may finish long before the last


@dataclass(frozen=True)
class Group:
    """This process is number ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    def wait(self) -> None:
        """Block until all processes have called this."""
        if self.size > 1:
            torch.distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, by rank."""
        values = [value] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(values, value)
        return values


def rank() -> int:
    """This process's rank under torchrun; 0 without it."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def group() -> Iterator[Group]:
    """All processes of one torchrun, connected through gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group()
        return
    torch.distributed.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield Group(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
