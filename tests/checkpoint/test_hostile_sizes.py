"""The memory and time to read a file are bounded by its size."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from movinet_convert.checkpoint import mapping, open_checkpoint
from movinet_convert.checkpoint.tensor_bundle import write_bundle
from movinet_convert.errors import CheckpointError
from movinet_convert.model.create import tensor_shapes
from movinet_convert.model.settings import get_variant
from scripts import hostile
from scripts.hostile import TableBuilder, entry, message, text
from tests.helpers.seeded import SUFFIX, stored_name

if TYPE_CHECKING:
    from pathlib import Path


def test_hostile_checkpoints_take_at_most_64_mib_beyond_their_size() -> None:
    command = [sys.executable, str(hostile.__file__), "--mib", "1.2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("MiB of memory") == len(hostile.INDEXES) + len(hostile.GRAPHS)


@pytest.mark.parametrize("order", [[0, 0], [1, 0], [0, 1, 1]], ids=str)
def test_refuses_block_referenced_twice_or_out_of_order(order: list[int], tmp_path: Path) -> None:
    table = TableBuilder()
    blocks = [table.add(entry(b"", hostile.HEADER)), table.add(entry(b"t", hostile.EMPTY_TENSOR))]
    hostile.write_index(tmp_path, table.finish([blocks[at] for at in order]))
    with pytest.raises(CheckpointError, match="blocks overlap or are not in order"):
        open_checkpoint(tmp_path)


def test_refuses_object_graph_with_two_names_for_variable(tmp_path: Path) -> None:
    key = f"variables/0{SUFFIX}"
    nodes = [message(1, message(2, text(2, name) + text(3, key))) for name in ("stem", "head")]
    hostile.write_graph(tmp_path, b"".join(nodes))
    with pytest.raises(CheckpointError, match=r"variables/0.* both 'stem' and 'head'"):
        open_checkpoint(tmp_path)


def test_largest_training_checkpoint_is_within_limits(tmp_path: Path) -> None:
    """An A5-Stream, three slots and a moving average beside each variable."""
    variant = get_variant("a5-stream")
    settings = variant.settings()
    links = mapping.links(variant, settings.conv_type, tensor_shapes(variant, settings, 600))
    value = np.zeros(1, np.float32)
    stored = {}
    for link in links:
        key = stored_name("a5", link.tf)
        path = f"{key.removesuffix(SUFFIX)}/.OPTIMIZER_SLOT/optimizer"
        stored[key] = value
        for slot in ("rms", "ema_base_optimizer/momentum", "mg", "average"):
            stored[f"{path}/{slot}{SUFFIX}"] = value
    write_bundle(tmp_path, "ckpt-1", stored)
    opened = open_checkpoint(tmp_path)
    assert opened.arch == "a5"
    assert len(opened.variables) == 1493
    assert len(opened.ignored) == 4 * 1493
